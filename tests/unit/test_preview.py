"""The request that the console shows for a delivery."""

from bridge.webhooks.preview import preview


def test_shown_request_has_all_headers_but_no_signature() -> None:
    made = preview(
        {
            "url": "https://a.example:8443/in?x=1#part",
            "event_id": 7,
            "event_type": "ticket.created",
            "webhook_id": 3,
            "payload": '{"b": 1, "a": "é"}',
            "is_signed": True,
            "is_signed_twice": True,
        }
    )
    assert made.body == '{"a": "\\u00e9", "b": 1}'
    assert made.headers == [
        ("Host", "a.example:8443"),
        ("User-Agent", "pgbridge"),
        ("Accept", "*/*"),
        ("Accept-Encoding", "identity"),
        ("Content-Type", "application/json"),
        ("X-Webhook-Event", "ticket.created"),
        ("X-Webhook-Id", "3"),
        ("webhook-id", "evt_7_wh_3"),
        ("webhook-timestamp", None),
        ("X-Webhook-Signature", None),
        ("X-Webhook-Signature-Previous", None),
        ("webhook-signature", None),
        ("Content-Length", str(len(made.body))),
    ]


def test_unsigned_request_is_shown_without_signatures() -> None:
    made = preview(
        {
            "url": "http://a.example",
            "event_id": 7,
            "event_type": "t",
            "webhook_id": 3,
            "payload": None,
            "is_signed": False,
            "is_signed_twice": False,
        }
    )
    assert made.body is None
    assert not [name for name, _ in made.headers if "signature" in name.lower()]
    assert "Content-Length" not in dict(made.headers)
