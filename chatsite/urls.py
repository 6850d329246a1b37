"""The site's addresses."""

from django.contrib import admin
from django.urls import path

from conversations.api.urls import urlpatterns as conversation_urls

urlpatterns = [
    path("admin/", admin.site.urls),
    *conversation_urls,
]
