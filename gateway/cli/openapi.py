"""What does the API look like? Its OpenAPI document, without starting anything."""

import argparse
import json
from collections.abc import Sequence

from gateway.app import openapi_document

ABOUT = "Print the OpenAPI document of the API, without starting anything."


def main(arguments: Sequence[str]) -> int:
    """Print the document as JSON."""
    argparse.ArgumentParser(prog="sluice openapi", description=ABOUT).parse_args(arguments)
    print(json.dumps(openapi_document(), indent=2, ensure_ascii=False))
    return 0
