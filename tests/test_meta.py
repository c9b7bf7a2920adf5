"""Meta's door and Graph's answers: signatures, handshake, errors, the same for all three channels."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any
from urllib.parse import quote

import pytest

from minibot.channels.meta import moment
from minibot.errors import MinibotError, Refused, Remedy, SendFailed, Unreadable
from minibot.model import Me, Reply, Request, Secret
from tests.meta_cases import MODULES, SHARED, channel, needs_shared, read

BODY = '{"object":"page","entry":[]} äöå 😀'.encode()
RIGHT = "sha256=" + hmac.new(b"first-app-secret", BODY, hashlib.sha256).hexdigest()
SECOND = "sha256=" + hmac.new(b"second-app-secret", BODY, hashlib.sha256).hexdigest()
SHA1 = "sha1=" + hmac.new(b"first-app-secret", BODY, hashlib.sha1).hexdigest()
NAME = b"x-hub-signature-256"


def post(*values: str, body: bytes = BODY, name: bytes = NAME) -> Request:
    return Request("POST", "/x/webhook", "", tuple((name, value.encode("utf-8")) for value in values), body)


def refusal(platform: str, request: Request, **settings: Any) -> int:
    """The status of the refusal, or 0 for none."""
    try:
        channel(platform, **settings).verify(request)
    except Refused as refused:
        return refused.status
    return 0


@pytest.mark.parametrize("platform", MODULES)
@pytest.mark.parametrize(("status", "request_"), [
    (0, post(RIGHT)), (0, post(SECOND)),
    (0, Request("POST", "/", "", ((b"x-hub-signature", SHA1.encode()), (NAME, RIGHT.encode())), BODY)), (401, post()),
    (401, post("")), (401, post("sha256=")), (401, post(SHA1)), (401, post(SHA1, name=b"x-hub-signature")),
    (401, post(RIGHT.removeprefix("sha256="))), (401, post(RIGHT[:-1])), (401, post(RIGHT + "0")),
    (401, post(RIGHT + " ")), (401, post("md5=" + hmac.new(b"first-app-secret", BODY, hashlib.md5).hexdigest())),
    (401, post("sha512=" + hmac.new(b"first-app-secret", BODY, hashlib.sha512).hexdigest())),
    (401, post("sha256=é" * 9)), (401, post("sha256=a=b")), (401, post(RIGHT, body=BODY + b" ")),
    (401, post(RIGHT, body=BODY.replace(b"page", b"pagf"))), (400, post(RIGHT, RIGHT)),
    (400, post("sha256=0", RIGHT)),
])
def test_only_a_body_signed_with_an_app_secret_gets_in(platform: str, status: int, request_: Request) -> None:
    assert refusal(platform, request_) == status


def test_a_signature_that_openssl_made_is_accepted() -> None:
    known = "sha256=add853b103fbcc936a194f9eb15e29c4ff08af6e47d5d1bca4f20218e31e4fff"  # dgst -sha256 -hmac k, of {}
    assert refusal("whatsapp", post(known, body=b"{}"), meta_app_secrets=(Secret("k"),)) == 0
    assert refusal("whatsapp", post(known, body=b"{ }"), meta_app_secrets=(Secret("k"),)) == 401


def test_without_an_app_secret_nothing_gets_in_unless_allowed() -> None:
    assert refusal("messenger", post(RIGHT), meta_app_secrets=()) == 401
    assert refusal("messenger", post(), meta_app_secrets=()) == 401
    empty = "sha256=" + hmac.new(b"", BODY, hashlib.sha256).hexdigest()
    assert refusal("messenger", post(empty), meta_app_secrets=(Secret(""),)) == 401
    assert refusal("messenger", post(), meta_app_secrets=(), allow_unsigned_webhooks=True) == 0
    assert refusal("messenger", post("sha256=0"), allow_unsigned_webhooks=True) == 0


def test_a_refusal_never_tells_the_right_signature() -> None:
    with pytest.raises(Refused) as refused:
        channel("instagram").verify(post("sha256=0"))
    assert RIGHT[7:] not in str(refused.value) and "secret" not in str(refused.value).lower()


@needs_shared
def test_every_shared_signature_vector_is_judged_as_stated() -> None:
    assert SHARED is not None
    for vector in json.loads((SHARED / "signature-vectors.json").read_text("utf-8")):
        fields = tuple((name.lower().encode(), value.encode("latin-1")) for name, value in vector["headers"].items())
        request = Request("POST", "/", "", fields, bytes.fromhex(vector["body_hex"]))
        status = refusal("whatsapp", request, meta_app_secrets=(Secret(vector["secret"]),))
        assert (status == 0) is vector["accept"], vector["name"]


GOOD = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=a-verify-token"


@pytest.mark.parametrize("platform", MODULES)
@pytest.mark.parametrize(("status", "query"), [
    (200, GOOD), (200, "hub.verify_token=a-verify-token&hub.mode=subscribe&hub.challenge=1158201444&x=1"),
    (200, GOOD.replace("a-verify", "a%2Dverify")), (403, ""), (403, GOOD.replace("a-verify-token", "a-verify-tokeN")),
    (403, GOOD.replace("a-verify-token", "")), (403, GOOD.replace("&hub.verify_token=a-verify-token", "")),
    (403, GOOD + "&hub.verify_token=a-verify-token"), (403, "hub.verify_token=x&" + GOOD),
    (403, GOOD.replace("hub.verify_token", "hub.verify_token[]")), (403, GOOD.replace("subscribe", "unsubscribe")),
    (403, GOOD.replace("hub.mode=subscribe&", "")), (403, GOOD.replace("a-verify-token", "a" * 10_000)),
    (403, GOOD.replace("a-verify-token", "%ed%a0%80é\udcff")), (400, GOOD.replace("hub.challenge=1158201444&", "")),
    (400, GOOD.replace("1158201444", "a" * 201)),
    (400, GOOD.replace("1158201444", quote("<script>alert(1)</script>"))),
    (400, GOOD.replace("1158201444", "1%0d%0aX:1")), (400, GOOD.replace("1158201444", "")),
    (403, GOOD.replace("a-verify-token", "b").replace("1158201444", "%3C")),
])
def test_the_handshake_answers_only_the_right_token(platform: str, status: int, query: str) -> None:
    shake = channel(platform).handshake
    assert shake is not None
    response = shake(Request("GET", "/", query, (), b""))
    assert (response.status, response.body) == (status, b"1158201444" if status == 200 else b"")
    if status == 200:
        assert response.content_type == "text/plain; charset=utf-8"
        assert dict(response.fields) == {"X-Content-Type-Options": "nosniff",
                                         "Content-Security-Policy": "default-src 'none'"}


def test_an_empty_verify_token_never_verifies() -> None:
    shake = channel("whatsapp", verify_token=Secret("")).handshake
    assert shake is not None
    for query in (GOOD, GOOD.replace("a-verify-token", ""), GOOD.replace("&hub.verify_token=a-verify-token", "")):
        assert shake(Request("GET", "/", query, (), b"")).status == 403


@pytest.mark.parametrize(("milliseconds", "given"), [
    (1763800000000, 1763800000), (1763800000000, "1763800000"), (1763800000123, 1763800000123),
    (1763800000123, "1763800000123"), (1763800000500, 1763800000.5), (1763800000000, "2025-11-22T08:26:40+0000"),
    (1763800000000, "2025-11-22T08:26:40Z"), (0, None), (0, True), (0, 0), (0, -1763800000), (0, 253402300799),
    (0, 1e308), (0, 10**400), (0, ""), (0, "soon"), (0, "١٧٦٣٨٠٠٠٠٠"), (0, "9" * 5000), (0, [1763800000]), (0, {}),
    (0, "0001-01-01T00:00:00+00:00"), (0, "9999-12-31T23:59:59+00:00"), (0, float("nan")), (0, float("inf")),
])
def test_times_are_read_in_every_form_and_nonsense_is_unknown(milliseconds: int, given: Any) -> None:
    assert moment(given) == milliseconds


@pytest.mark.parametrize("platform", MODULES)
@pytest.mark.parametrize("body", [
    b"", b"null", b"[]", b'"x"', b"0", b"true", b"{}", b"not json", b'{"object":"other","entry":[]}', b"\xff\xfe{",
    b'{"object":"whatsapp_business_account","entry":{}}', b'{"object":"page"}', b'{"object":"instagram","entry":null}',
    b'{"object":"page","entry":[]} {}', b'{"object":"page","entry":NaN}', b"[" * 100_000, b'{"a":' * 100_000,
])
def test_a_body_that_is_no_delivery_is_unreadable_and_nothing_else(platform: str, body: bytes) -> None:
    with pytest.raises(Unreadable):
        read(platform, body)


def test_nesting_at_the_edge_of_what_can_be_parsed_is_kept_as_odd() -> None:
    subject = channel("messenger")
    for depth in range(800, 1000):
        nested = '{"a":' * depth + "1" + "}" * depth
        try:
            items = b'[{"sender":{"id":2},"message":%s}]' % nested.encode()
            events = subject.parse(b'{"object":"page","entry":[{"id":1,"messaging":%s}]}' % items, Me())
        except Unreadable:
            break
        assert [type(event).__name__ for event in events] == ["Odd"]
    else:
        pytest.fail("no depth was refused: the loop did not reach the edge")


def graph_error(code: object, subcode: object = None, message: str = "no", **more: object) -> bytes:
    error = {"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "AbC"} | more
    return json.dumps({"error": error | ({"error_subcode": subcode} if subcode is not None else {})}).encode()


WA, FB, IG = "whatsapp", "messenger", "instagram"
ERRORS: list[tuple[str, int, bytes, Remedy, str]] = [
    (WA, 400, graph_error(130429), Remedy.WAIT_CHANNEL, "130429"),
    (WA, 400, graph_error(80007), Remedy.WAIT_CHANNEL, "80007"),
    (WA, 429, graph_error(131056), Remedy.WAIT_CHAT, "131056"),
    (WA, 400, graph_error(131047), Remedy.WINDOW, "131047"),
    (WA, 400, graph_error(131026), Remedy.UNREACHABLE, "131026"),
    (WA, 400, graph_error(130403), Remedy.UNREACHABLE, "130403"),
    (WA, 400, graph_error(130497), Remedy.UNREACHABLE, "130497"),
    (WA, 400, graph_error(131021), Remedy.UNREACHABLE, "131021"),
    (WA, 400, graph_error(131050), Remedy.UNREACHABLE, "131050"),
    (WA, 400, graph_error(131030), Remedy.REFUSED, "131030"), (WA, 500, graph_error(131000), Remedy.RETRY, "131000"),
    (WA, 400, graph_error(131016), Remedy.RETRY, "131016"), (WA, 400, graph_error(131057), Remedy.RETRY, "131057"),
    (WA, 400, graph_error(133004), Remedy.RETRY, "133004"), (WA, 403, graph_error(131005), Remedy.STOP, "131005"),
    (WA, 403, graph_error(131031), Remedy.STOP, "131031"), (WA, 400, graph_error(131048), Remedy.STOP, "131048"),
    (WA, 400, graph_error(131064), Remedy.STOP, "131064"), (WA, 400, graph_error(131045), Remedy.STOP, "131045"),
    (WA, 400, graph_error(133010), Remedy.STOP, "133010"), (WA, 400, graph_error(131037), Remedy.STOP, "131037"),
    (WA, 400, graph_error(131042), Remedy.STOP, "131042"), (WA, 400, graph_error(33), Remedy.STOP, "33"),
    (WA, 400, graph_error(100, 33), Remedy.STOP, "100/33"), (WA, 400, graph_error(100), Remedy.REFUSED, "100"),
    (WA, 400, graph_error(131008), Remedy.REFUSED, "131008"),
    (WA, 400, graph_error(131009), Remedy.REFUSED, "131009"),
    (WA, 400, graph_error(131062), Remedy.REFUSED, "131062"),
    (WA, 400, graph_error(131051), Remedy.REFUSED, "131051"),
    (WA, 400, graph_error(999999), Remedy.REFUSED, "999999"),
    (WA, 400, graph_error(100, message="(#100) Param text['body'] must be at most 4096 characters long."),
     Remedy.HALVE, "100"),
    (WA, 400, graph_error(131009, error_data={"details": "text body is too long"}), Remedy.HALVE, "131009"),
    (WA, 400, graph_error(131009, error_data="a plain string"), Remedy.REFUSED, "131009"),
    (WA, 500, graph_error(3), Remedy.STOP, "3"), (WA, 401, graph_error(0), Remedy.STOP, "0"),
    (WA, 401, graph_error(190, 463), Remedy.STOP, "190/463"),
    (IG, 401, graph_error(190, 460), Remedy.STOP, "190/460"), (FB, 401, graph_error(104), Remedy.STOP, "104"),
    (FB, 403, graph_error(10), Remedy.STOP, "10"), (FB, 403, graph_error(200), Remedy.STOP, "200"),
    (FB, 403, graph_error(230), Remedy.STOP, "230"), (FB, 403, graph_error(299), Remedy.STOP, "299"),
    (FB, 403, graph_error(368), Remedy.STOP, "368"), (FB, 400, graph_error(10, 2018278), Remedy.WINDOW, "10/2018278"),
    (FB, 400, graph_error(10, 2018065), Remedy.WINDOW, "10/2018065"),
    (IG, 400, graph_error(10, 2534022), Remedy.WINDOW, "10/2534022"),
    (FB, 400, graph_error(551), Remedy.UNREACHABLE, "551"),
    (FB, 400, graph_error(551, 1545041), Remedy.UNREACHABLE, "551/1545041"),
    (FB, 400, graph_error(200, 1545041), Remedy.UNREACHABLE, "200/1545041"),
    (FB, 400, graph_error(10, 2018108), Remedy.UNREACHABLE, "10/2018108"),
    (FB, 400, graph_error(100, 2018001), Remedy.UNREACHABLE, "100/2018001"),
    (IG, 400, graph_error(100, 2534014), Remedy.UNREACHABLE, "100/2534014"),
    (FB, 400, graph_error(100, 2018047), Remedy.REFUSED, "100/2018047"),
    (FB, 400, graph_error(100, message="(#100) Length of param message[text] must be less than or equal to 2000"),
     Remedy.HALVE, "100"),
    (FB, 400, graph_error(613), Remedy.WAIT_CHANNEL, "613"), (FB, 400, graph_error(4), Remedy.WAIT_CHANNEL, "4"),
    (FB, 400, graph_error(17), Remedy.WAIT_CHANNEL, "17"), (FB, 400, graph_error(32), Remedy.WAIT_CHANNEL, "32"),
    (IG, 400, graph_error(613, 2534040), Remedy.WAIT_CHANNEL, "613/2534040"),
    (IG, 403, graph_error(200, 2534041), Remedy.STOP, "200/2534041"),
    (IG, 400, graph_error(10, 1893063), Remedy.STOP, "10/1893063"),
    (IG, 400, graph_error(100, 2534029), Remedy.STOP, "100/2534029"),
    (IG, 400, graph_error(2, 1545133), Remedy.RETRY, "2/1545133"), (FB, 500, graph_error(1200), Remedy.RETRY, "1200"),
    (FB, 400, graph_error(1), Remedy.RETRY, "1"), (FB, 400, graph_error(2), Remedy.RETRY, "2"),
    (FB, 400, graph_error(1, 1357046), Remedy.DELIVERED, "1/1357046"),
    (FB, 400, graph_error(777, is_transient=True), Remedy.RETRY, "777"),
    (FB, 503, graph_error(777), Remedy.RETRY, "777"),
    (FB, 400, graph_error(777, is_transient="yes"), Remedy.REFUSED, "777"),
    (FB, 200, graph_error(190), Remedy.STOP, "190"), (FB, 400, graph_error("190"), Remedy.REFUSED, "400"),
    (FB, 400, graph_error(None), Remedy.REFUSED, "400"), (FB, 502, b"<html>Bad Gateway</html>", Remedy.RETRY, "502"),
    (WA, 504, b"", Remedy.RETRY, "504"), (WA, 429, b"slow down", Remedy.WAIT_CHANNEL, "429"),
    (WA, 401, b"", Remedy.STOP, "401"), (IG, 404, b"[]", Remedy.REFUSED, "404"),
    (IG, 400, b'{"error":"text"}', Remedy.REFUSED, "400"), (WA, 408, b"", Remedy.RETRY, "408"),
    (WA, 302, b"", Remedy.REFUSED, "302"), (WA, 200, b"<html>Welcome to this wifi</html>", Remedy.UNSURE, "no_id"),
    (WA, 200, b"", Remedy.UNSURE, "no_id"), (WA, 200, b'{"messages":[]}', Remedy.UNSURE, "no_id"),
    (WA, 200, b'{"messages":[{"id":7}]}', Remedy.UNSURE, "no_id"),
    (WA, 200, b'{"messages":{"id":"x"}}', Remedy.UNSURE, "no_id"), (FB, 200, b"[" * 100_000, Remedy.UNSURE, "no_id"),
    (FB, 200, b'{"recipient_id":"1"}', Remedy.UNSURE, "no_id"),
    (IG, 200, b'{"message_id":""}', Remedy.UNSURE, "no_id"),
]


def judged(platform: str, status: int, body: bytes, **fields: str) -> SendFailed:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    with pytest.raises(SendFailed) as failed:
        channel(platform).judge(Reply(status, named, body))
    return failed.value


@pytest.mark.parametrize(("platform", "status", "body", "remedy", "code"), ERRORS)
def test_every_error_leads_to_its_remedy(platform: str, status: int, body: bytes, remedy: Remedy, code: str) -> None:
    failed = judged(platform, status, body)
    assert (failed.remedy, failed.code, failed.retry_after) == (remedy, code, None)
    assert "\n" not in str(failed) and isinstance(failed, MinibotError)
    assert failed.help or remedy is not Remedy.STOP


@pytest.mark.parametrize(("key", "platform", "more"), [
    ("META_ACCESS_TOKEN", WA, {}), ("META_PAGE_ACCESS_TOKEN", FB, {}), ("META_PAGE_ACCESS_TOKEN", IG, {}),
    ("INSTAGRAM_ACCESS_TOKEN", IG, {"instagram_access_token": Secret("IGAA")})])
def test_a_dead_token_names_the_setting_that_holds_it(key: str, platform: str, more: dict[str, Any]) -> None:
    with pytest.raises(SendFailed) as failed:
        channel(platform, **more).judge(Reply(401, {}, graph_error(190, 463, "Malformed access token EAAW-token")))
    assert failed.value.help.split()[-1] == key and "EAA" not in str(failed.value)


@pytest.mark.parametrize(("seconds", "header"), [
    (30.0, "30"), (0.5, "0"), (3600.0, "999999"), (None, "1_0"), (None, "-5"), (None, "+5"), (None, "nan"),
    (None, "inf"), (None, "٣"), (None, "1e3"), (None, ""), (None, " 5"), (3600.0, "9999999"),
    (None, "Sun, 06 Nov 2044 08:49:37 GMT"),
])
def test_retry_after_is_read_strictly(seconds: float | None, header: str) -> None:
    assert judged(WA, 429, b"", retry_after=header).retry_after == seconds


def test_an_unknown_error_tells_the_operator_what_graph_said_on_one_line() -> None:
    failed = judged(FB, 400, graph_error(777, message="Some\nthing \ud800 odd {key}" + "x" * 5000))
    assert failed.help.startswith("Some thing \ufffd odd {key}xxx") and len(failed.help) <= 300


ACTIONS = {
    "throttle_all": Remedy.WAIT_CHANNEL, "retry_pair": Remedy.WAIT_CHAT, "alert_policy": Remedy.STOP,
    "alert_permission": Remedy.STOP, "alert_operator": Remedy.STOP, "alert_token": Remedy.STOP,
    "drop_window": Remedy.WINDOW, "drop_recipient": Remedy.UNREACHABLE, "retry_backoff": Remedy.RETRY,
    "fix_request": Remedy.REFUSED, "ambiguous_no_retry": Remedy.DELIVERED,
}


@needs_shared
def test_every_shared_error_body_leads_to_its_stated_action() -> None:
    assert SHARED is not None
    for entry in json.loads((SHARED / "graph-error-responses.json").read_text("utf-8")):
        for platform in MODULES if entry["platform"] == "any" else [entry["platform"]]:
            failed = judged(platform, entry["http_status"], json.dumps(entry["body"]).encode())
            wanted = ACTIONS[entry["action"]]
            if entry["body"]["error"]["code"] == 131030:
                wanted = Remedy.REFUSED  # told to the operator, but only this person is concerned
            if "Length of param" in entry["body"]["error"]["message"]:
                wanted = Remedy.HALVE
            assert failed.remedy is wanted, entry
            assert failed.help or not entry["action"].startswith("alert"), entry


@needs_shared
def test_every_shared_success_body_names_the_message() -> None:
    assert SHARED is not None
    replies = json.loads((SHARED / "graph-replies.json").read_text("utf-8"))
    for name in ("whatsapp_send_ok", "whatsapp_send_to_bsuid_ok", "messenger_send_ok", "instagram_send_ok"):
        content = replies[name]["body"]
        found = channel(name.split("_")[0]).judge(Reply(200, {}, json.dumps(content).encode()))
        assert found == content.get("message_id", content.get("messages", [{}])[0].get("id"))
