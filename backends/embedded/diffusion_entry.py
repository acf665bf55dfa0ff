"""How does SGLang's command line begin on a plain CPU? Run by the engine's own interpreter."""

import sys

from sluice_plain_cpu import declare_torchvision_operators


def main() -> None:
    """Hand over to `sglang serve`."""
    declare_torchvision_operators()
    from sglang.cli.main import main as sglang

    sys.argv = ["sglang", "serve", *sys.argv[1:]]
    sglang()


if __name__ == "__main__":
    main()
