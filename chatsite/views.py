"""The pages people see: the chat, and the way in and out of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

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

from conversations.conf import get_conf
from conversations.errors import Throttled
from conversations.throttle import check_throttle, count_throttle, forgive_throttle, throttle_key

_WINDOW: Final = timedelta(minutes=1)


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
        limits = self._limits()
        try:
            async_to_sync(_count)(limits)
        except Throttled as refusal:
            return self._refuse(refusal)
        response: HttpResponseBase = super().post(request, *args, **kwargs)
        if request.user.is_authenticated:
            async_to_sync(_forgive)(limits)
        return response

    def _limits(self) -> dict[str, int]:
        """As `POST /api/auth/login` has them: per name and address, and per address."""
        name = self.request.POST.get("username", "").strip().lower()
        address = self.request.META.get("REMOTE_ADDR", "")
        limit = get_conf().login_attempts_per_minute
        return {
            throttle_key("login", name, address): limit,
            throttle_key("login", address): limit * 10,
        }

    def _refuse(self, refusal: Throttled) -> HttpResponseBase:
        form = AuthenticationForm(self.request)  # unbound: the password is not looked at
        context = self.get_context_data(form=form, refusal=refusal.message)
        return self.render_to_response(
            context, status=429, headers={"Retry-After": str(refusal.retry_after)}
        )


async def _count(limits: dict[str, int]) -> None:
    now = timezone.now()
    for key, limit in limits.items():
        await check_throttle(key, limit=limit, now=now)
    for key, limit in limits.items():
        await count_throttle(key, limit=limit, window=_WINDOW, now=now)


async def _forgive(limits: dict[str, int]) -> None:
    for key in limits:
        await forgive_throttle(key)
