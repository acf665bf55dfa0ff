"""The `sluice` command: one module per subject, each with `main(arguments) -> exit status`."""
