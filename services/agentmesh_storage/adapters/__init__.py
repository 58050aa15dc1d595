"""One file or package per backend of storage's ports."""
