"""Exit 0 when the web server of this container answers its login page (in production: the redirect to https)."""

import http.client
import os
import sys


def main() -> int:
    host = os.environ.get("ALLOWED_HOSTS", "").split(",")[0].strip().lstrip(".*") or "localhost"
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("PORT", "8000")), timeout=5)
    connection.request("GET", "/admin/login/", headers={"Host": host})
    return int(connection.getresponse().status >= 400)


if __name__ == "__main__":
    sys.exit(main())
