"""The pages people see: the chat, OpenAI's component for it, and the way in and out."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Final

from asgiref.sync import async_to_sync
from csp.constants import SELF, UNSAFE_INLINE
from csp.decorators import csp_update
from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.views import LoginView
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

from conversations.errors import Throttled
from conversations.throttle import count_login, forgive_login, login_limits

View = Callable[[HttpRequest], HttpResponseBase]

CHATKIT_CDN: Final = "https://cdn.platform.openai.com"
CHATKIT_SCRIPT: Final = f"{CHATKIT_CDN}/deployments/chatkit/chatkit.js"
CHATKIT_POLICY: Final = {
    "script-src": [SELF, CHATKIT_CDN],
    "frame-src": [CHATKIT_CDN],
    "connect-src": [SELF, CHATKIT_CDN, "https://api.openai.com"],
    # The component puts a style of its own into the page. It has no version, so no hash holds.
    "style-src": [SELF, UNSAFE_INLINE],
}
ANY_DOMAIN_KEY: Final = "local-dev"  # the component wants one; on localhost it takes any


@require_safe
@never_cache
@login_required(login_url="sign-in")
@ensure_csrf_cookie
def chat(request: HttpRequest) -> HttpResponse:
    """The chat page; all else it reads from the API."""
    return render(request, "chat.html")


def _only_if_opted_in(view: View) -> View:
    """404, for everybody, where the site has not opted in to the component's page."""

    @wraps(view)
    def answer(request: HttpRequest) -> HttpResponseBase:
        if not settings.CHATKIT_PAGE:
            raise Http404
        return view(request)

    return answer


@require_safe
@never_cache
@_only_if_opted_in
@login_required(login_url="sign-in")
@ensure_csrf_cookie
@csp_update(CHATKIT_POLICY)
def chatkit_page(request: HttpRequest) -> HttpResponse:
    """OpenAI's ChatKit component on this site's API: the one page that loads from elsewhere."""
    domain_key = settings.CHATKIT_DOMAIN_KEY or ANY_DOMAIN_KEY
    context = {"script": CHATKIT_SCRIPT, "domain_key": domain_key}
    return render(request, "chatkit_page.html", context)


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
