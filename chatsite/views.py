"""The pages people see: the chat, and the way in and out of it."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from conversations.errors import Throttled
from conversations.throttle import count_login, forgive_login, login_limits


@require_safe
@never_cache
@login_required(login_url="sign-in")
@ensure_csrf_cookie
def chat(request: HttpRequest) -> HttpResponse:
    """The chat page; all else it reads from the API."""
    return render(request, "chat.html")


class SignIn(LoginView):
    """Django's sign-in; failures count together with those at the API."""

    template_name = "sign_in.html"
    next_page = "chat"
    redirect_authenticated_user = True

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        name, address = request.POST.get("username", ""), request.META.get("REMOTE_ADDR", "")
        limits = login_limits(name=name, address=address)
        try:
            async_to_sync(count_login)(limits, now=timezone.now())
        except Throttled as refusal:
            return self._refuse(refusal)
        response: HttpResponseBase = super().post(request, *args, **kwargs)
        if request.user.is_authenticated:
            async_to_sync(forgive_login)(limits)
        return response

    def _refuse(self, refusal: Throttled) -> HttpResponseBase:
        form = AuthenticationForm(self.request)  # unbound: the password is not looked at
        context = self.get_context_data(form=form, refusal=refusal.message)
        return self.render_to_response(
            context, status=429, headers={"Retry-After": str(refusal.retry_after)}
        )
