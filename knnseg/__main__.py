"""``python -m knnseg``: the command, where its script is not on the path."""

from knnseg.cli import main

if __name__ == "__main__":
    main()
