"""The pages that customers see: plain HTML forms, no scripts, and nothing loaded from elsewhere."""

import html
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import parse_qs, urlencode

from aiohttp import web

from sandbox import cards
from sandbox.account import Account
from sandbox.errors import StripeError
from sandbox.money import ZERO_DECIMAL
from sandbox.nouns import baskets, checkout_pays, invoicing, paying, portal, setup_intents
from sandbox.nouns.subscribing import ENDED, items_of
from sandbox.shapes import Obj, has_status

CHOICES: Final = {
    "pm_card_visa": "4242 4242 4242 4242: pays",
    "pm_card_chargeDeclined": "4000 0000 0000 0002: declines",
    "pm_card_chargeDeclinedInsufficientFunds": "4000 0000 0000 9995: has insufficient funds",
    "pm_card_authenticationRequired": "4000 0025 0000 3155: asks for 3-D Secure",
    "pm_card_createDispute": "4000 0000 0000 0259: pays and disputes",
    "pm_usBankAccount_success": "Bank account: the money comes in four days",
    "pm_usBankAccount_insufficientFunds": "Bank account: the debit fails in four days",
}
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:32rem;margin:3rem auto;padding:0 1rem}"
    "button,select,input{font:inherit;padding:.4rem .8rem;margin:.3rem 0}"
    "table{width:100%}td:last-child{text-align:right}.problem{color:#b00020}"
    "small{color:#555}"
)


def escaped(value: Any) -> str:
    return html.escape(str(value))


def money(amount: int | None, currency: str | None) -> str:
    """An amount for people to read."""
    if amount is None or currency is None:
        return ""
    shown = f"{amount:,}" if currency in ZERO_DECIMAL else f"{amount / 100:,.2f}"
    return f"{shown} {currency.upper()}"


def _page(title: str, body: str, *, status: int = 200) -> web.Response:
    text = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escaped(title)}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<h1>{escaped(title)}</h1>{body}"
        "<p><small>A stand-in for Stripe. No real card, no real money.</small></p></html>"
    )
    return web.Response(status=status, text=text, content_type="text/html", headers=HEADERS)


def _go(url: str) -> web.Response:
    return web.Response(status=303, headers={"Location": url, **HEADERS})


def _with_result(url: str, intent: Obj) -> str:
    """A return address with what Stripe adds to it."""
    outcome = "succeeded" if intent["status"] == "succeeded" else "failed"
    names = {
        intent["object"]: intent["id"],
        f"{intent['object']}_client_secret": intent["client_secret"],
        "redirect_status": outcome,
    }
    return f"{url}{'&' if '?' in url else '?'}{urlencode(names)}"


def _button(action: str, label: str, fields: str = "") -> str:
    return (
        f"<form method=post>{fields}"
        f"<button name=action value={escaped(action)}>{escaped(label)}</button></form>"
    )


def _choice() -> str:
    options = "".join(
        f"<option value={name}>{escaped(label)}</option>" for name, label in CHOICES.items()
    )
    return f"<label>Pay with <select name=payment_method>{options}</select></label><br>"


def _problem(text: str | None) -> str:
    return "" if text is None else f"<p class=problem role=alert>{escaped(text)}</p>"


class Pages:
    """Answers the pages for an account."""

    def __init__(self, account: Account) -> None:
        self.account = account

    async def answer(self, request: web.BaseRequest, body: bytes) -> web.StreamResponse:
        parts = request.path.strip("/").split("/")
        pages: dict[str, Callable[[str, dict[str, str]], web.Response]] = {
            "pay": self._pay,
            "3ds": self._three_d_secure,
            "portal": self._portal,
            "invoice": self._invoice,
            "receipt": self._receipt,
        }
        page = pages.get(parts[0])
        if page is None or len(parts) < 2 or request.method not in ("GET", "POST"):
            return _page("Not here", "<p>There is no such page.</p>", status=404)
        form: dict[str, str] = {}
        if request.method == "POST":
            found = parse_qs(body.decode("utf-8", "replace"))
            form = {name: values[-1] for name, values in found.items()}
        try:
            answer = page(parts[1], form)
        except StripeError as error:
            answer = _page("That did not work", _problem(str(error)), status=error.status)
        self.account.version += bool(form)
        # As Stripe: whoever is sent back finds that the webhooks have been there.
        await self.account.postman.drain()
        return answer

    # Checkout

    def _pay(self, session_id: str, form: dict[str, str]) -> web.Response:
        world = self.account.world
        session = world.get("checkout.session", session_id)
        if session["status"] != "open":
            return _page("Checkout", f"<p>This session is {session['status']}.</p>")
        problem: str | None = None
        match form.get("action"):
            case "cancel":
                return _go(session["cancel_url"] or session["success_url"])
            case "pay":
                try:
                    self._complete(session, form)
                except StripeError as error:
                    problem = str(error)
                if has_status(session, "complete"):
                    return self._back(session)
                if (url := self._question(session)) is not None:
                    return _go(url)
            case _:
                pass
        return self._checkout_page(session, problem)

    def _complete(self, session: Obj, form: dict[str, str]) -> None:
        name = form.get("payment_method", "pm_card_visa")
        number = form.get("number", "").replace(" ", "")
        if number:
            name = cards.BY_NUMBER.get(number, "pm_card_chargeDeclined")
        pending = "pending" if session["mode"] == "payment" else "succeeded"
        checkout_pays.complete(
            self.account.world,
            session,
            name,
            authentication=pending,
            promotion_code=form.get("promotion_code") or None,
        )

    def _question(self, session: Obj) -> str | None:
        intent = self.account.world.table("payment_intent").get(str(session["payment_intent"]))
        if intent is None or intent["status"] != "requires_action":
            return None
        return intent["next_action"]["redirect_to_url"]["url"]

    def _back(self, session: Obj) -> web.Response:
        url = session["success_url"] or session["return_url"] or ""
        return _go(url.replace("{CHECKOUT_SESSION_ID}", session["id"]))

    def _checkout_page(self, session: Obj, problem: str | None) -> web.Response:
        rows = "".join(
            f"<tr><td>{escaped(line['quantity'] or '')} {escaped(line['description'])}</td>"
            f"<td>{money(line['amount_total'], line['currency'])}</td></tr>"
            for line in baskets.items_of(self.account.world, session)
            if session["mode"] != "setup"
        )
        total = money(session["amount_total"], session["currency"])
        fields = _choice()
        fields += "<label>or a test card number <input name=number autocomplete=off></label><br>"
        if session["allow_promotion_codes"]:
            fields += "<label>Promotion code <input name=promotion_code></label><br>"
        label = "Save" if session["mode"] == "setup" else f"Pay {total}"
        body = (
            f"{_problem(problem)}<table>{rows}</table>"
            f"{_button('pay', label, fields)}{_button('cancel', 'Cancel')}"
        )
        return _page("Checkout", body, status=402 if problem else 200)

    # The bank's question

    def _three_d_secure(self, intent_id: str, form: dict[str, str]) -> web.Response:
        world = self.account.world
        is_setup = intent_id.startswith("seti_")
        intent = world.get("setup_intent" if is_setup else "payment_intent", intent_id)
        if form.get("action") in ("succeeded", "failed"):
            authenticate = setup_intents.authenticate if is_setup else paying.authenticate
            authenticate(world, intent, form["action"])
            session_id = world.note(intent_id).get("session")
            if session_id is not None:
                session = world.get("checkout.session", session_id)
                return (
                    self._back(session) if session["status"] == "complete" else _go(session["url"])
                )
            if (back := world.note(intent_id).get("return_url")) is not None:
                return _go(_with_result(back, intent))
            return _page("3-D Secure", f"<p>The intent is now {intent['status']}.</p>")
        body = "<p>Your bank wants to know that it is you.</p>"
        body += _button("succeeded", "Complete") + _button("failed", "Fail")
        return _page("3-D Secure", body)

    # The portal

    def _portal(self, session_id: str, form: dict[str, str]) -> web.Response:
        world = self.account.world
        session = world.get("billing_portal.session", session_id)
        problem: str | None = None
        if (action := form.pop("action", None)) is not None:
            if action == "return":
                return _go(session["return_url"] or self.account.base_url)
            try:
                portal.act(world, session, action, dict(form))
            except StripeError as error:
                problem = str(error)
        features = world.get("billing_portal.configuration", session["configuration"])["features"]
        parts = [_problem(problem)]
        for sub in world.every("subscription", customer=session["customer"]):
            if sub["status"] not in ENDED:
                parts.append(self._subscription_part(sub, features))
        if features["payment_method_update"]["enabled"]:
            parts.append(_button("update_payment_method", "Save this card", _choice()))
        if features["invoice_history"]["enabled"]:
            parts.append(self._invoices_part(session["customer"]))
        parts.append(_button("return", "Return"))
        return _page("Your subscription", "".join(parts), status=400 if problem else 200)

    def _subscription_part(self, sub: Obj, features: Obj) -> str:
        item = items_of(sub)[0]
        field = f"<input type=hidden name=subscription value={escaped(sub['id'])}>"
        name = self.account.world.get("product", item["price"]["product"])["name"]
        text = f"<p>{escaped(name)}: {escaped(sub['status'])}"
        if sub["cancel_at_period_end"]:
            text += ", ends with its period"
        text += "</p>"
        if features["subscription_cancel"]["enabled"]:
            is_ending = sub["cancel_at"] is not None
            text += _button(
                "undo_cancel" if is_ending else "cancel",
                "Keep it" if is_ending else "Cancel subscription",
                field,
            )
        return text

    def _invoices_part(self, customer: str) -> str:
        rows = "".join(
            f"<tr><td><a href='{escaped(one['hosted_invoice_url'])}'>{escaped(one['number'])}</a>"
            f"</td><td>{money(one['total'], one['currency'])} {escaped(one['status'])}</td></tr>"
            for one in reversed(self.account.world.every("invoice", customer=customer))
            if one["hosted_invoice_url"] is not None
        )
        return f"<h2>Invoices</h2><table>{rows}</table>"

    # Invoices and receipts

    def _invoice(self, invoice_id: str, form: dict[str, str]) -> web.Response:
        world = self.account.world
        invoice = world.get("invoice", invoice_id)
        problem: str | None = None
        if form.get("action") == "pay" and invoice["status"] in ("open", "uncollectible"):
            name = form.get("payment_method", "pm_card_visa")
            try:
                method = invoicing.usable_method(world, name, invoice["customer"])
                invoicing.pay(world, invoice, method, off_session=False)
            except StripeError as error:
                problem = str(error)
        rows = "".join(
            f"<tr><td>{escaped(line['description'])}</td>"
            f"<td>{money(line['amount'], line['currency'])}</td></tr>"
            for line in invoice["lines"]["data"]
        )
        body = f"{_problem(problem)}<p>{escaped(invoice['status'])}</p><table>{rows}</table>"
        body += f"<p>Total {money(invoice['total'], invoice['currency'])}</p>"
        if invoice["status"] in ("open", "uncollectible"):
            due = money(invoice["amount_remaining"], invoice["currency"])
            body += _button("pay", f"Pay {due}", _choice())
        return _page(f"Invoice {invoice['number'] or ''}", body, status=402 if problem else 200)

    def _receipt(self, charge_id: str, form: dict[str, str]) -> web.Response:
        del form
        charge = self.account.world.get("charge", charge_id)
        paid = money(charge["amount"], charge["currency"])
        return _page("Receipt", f"<p>{paid}: {escaped(charge['status'])}</p>")
