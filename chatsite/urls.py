"""The site's addresses."""

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import path

from chatsite import views
from conversations.api.urls import urlpatterns as conversation_urls

urlpatterns = [
    path("", views.chat, name="chat"),
    path("chatkit-page/", views.chatkit_page, name="chatkit-page"),
    path("sign-in", views.SignIn.as_view(), name="sign-in"),
    path("sign-out", LogoutView.as_view(next_page="sign-in"), name="sign-out"),
    path("admin/", admin.site.urls),
    *conversation_urls,
]
