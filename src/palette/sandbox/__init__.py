"""The sandbox: a small world made by us, in which truth is known. Used where nothing else is named."""
