"""The first administrator, and a way back in."""

import secrets

from django.contrib.auth import get_user_model
from django.db import transaction


def ensure_administrator(name: str) -> str:
    """Make the administrator `name` when there is no active superuser; return his password, else ''.

    Twice does nothing: the second call finds the first one's.
    """
    if get_user_model().objects.filter(is_superuser=True, is_active=True).exists():
        return ""
    return set_password(name)


@transaction.atomic
def set_password(name: str) -> str:
    """Give user `name` a new random password and all rights (made when missing); return the password."""
    user, _ = get_user_model().objects.get_or_create(username=name)
    password = secrets.token_urlsafe(12)
    user.is_staff = user.is_superuser = user.is_active = True
    user.set_password(password)
    user.save()
    return password
