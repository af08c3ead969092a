#!/usr/bin/env python3
"""Django's command line, with Mister Smith's settings."""

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        print(
            "Django is not installed for this Python.\n"
            "HINT: run `make up` once, then use .venv/bin/python manage.py ...",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
