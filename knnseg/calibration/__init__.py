"""Numbers chosen by the database itself, by leaving out one image at a time."""
