"""Exits with 0 when the service in this container is ready: the image's HEALTHCHECK."""

import os
import sys
import urllib.error
import urllib.request

URL = f"http://127.0.0.1:{os.environ.get('ASR_PORT', '8000')}/readyz"

try:
    with urllib.request.urlopen(URL, timeout=4) as answer:
        print(answer.read().decode())
except urllib.error.HTTPError as error:  # not ready: the body says why
    sys.exit(error.read().decode())
except OSError as error:
    sys.exit(f"{URL}: {error}")
