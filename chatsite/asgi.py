"""The ASGI application that `manage.py serve` runs."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chatsite.settings")

from django.core.asgi import get_asgi_application

site = get_asgi_application()  # sets Django up: before anything below is imported

from conversations.api.asgi import ApiHandler, Entrance  # noqa: E402

application = Entrance(api=ApiHandler(), site=site)
