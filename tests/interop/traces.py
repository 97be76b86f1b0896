"""The traces of the service, received by `oteltap`. `script/interop` installs and runs it."""

import asyncio
import os
import secrets

import requests
from oteltap import OtelTapHttpProtobufReceiver, OtelTapHttpProtobufReceiverSettings

API = os.environ["API"]
# The service sends its spans there.
PORT = int(os.environ["COLLECTOR_PORT"])
# How long the spans of a request may take to arrive, in seconds.
PATIENCE = 30
failed = False


def create(traceparent):
    """Creates a customer in the caller's trace; returns the `traceparent` that its event has."""
    client = requests.Session()
    log_in = {"username": "demo", "password": "demo-password"}
    answer = client.post(f"{API}/login", json=log_in, timeout=10)
    answer.raise_for_status()
    client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    body = {"name": "Zaphod Beeblebrox", "dob": "1911-11-17"}
    made = client.post(f"{API}/customers", json=body, headers={"traceparent": traceparent}, timeout=10)
    assert made.status_code == 201, made.text
    feed = client.get(f"{API}/events?customer={made.json()['id']}", timeout=10).json()
    return feed["events"][0]["metadata"]["traceparent"]


async def trace_of_a_create():
    """oteltap: the spans of a create are one trace from the caller to the statement, and its event names it"""
    trace, caller = secrets.token_hex(16), secrets.token_hex(8)
    async with OtelTapHttpProtobufReceiver(OtelTapHttpProtobufReceiverSettings(http_port=PORT)) as receiver:
        spans = {}

        async def collect():
            async for span in receiver.stream_traces():
                if span.trace_id.hex() == trace:
                    spans[span.span_id.hex()] = span

        collecting = asyncio.create_task(collect())
        recorded = await asyncio.to_thread(create, f"00-{trace}-{caller}-01")
        wanted = {"POST /customers", "command", "append", "append_batch", "sql", "redis"}
        for _ in range(PATIENCE * 10):
            if wanted <= {span.name for span in spans.values()}:
                break
            await asyncio.sleep(0.1)
        collecting.cancel()
    names = sorted(span.name for span in spans.values())
    assert wanted <= set(names), names
    of_request = next(span for span in spans.values() if span.name == "POST /customers")
    assert of_request.parent_span_id.hex() == caller
    assert recorded == f"00-{trace}-{of_request.span_id.hex()}-01", recorded
    attributes = {item.key: item.value for item in of_request.attributes}
    assert attributes["http.route"].string_value == "/customers", attributes
    assert attributes["http.response.status_code"].int_value == 201, attributes
    # From each statement up to the request. The first request with the cookie binds the session, by an append, too.
    paths = []
    for span in [span for span in spans.values() if span.name == "sql"]:
        path = []
        while span is not None:
            path.append(span.name)
            span = spans.get(span.parent_span_id.hex())
        paths.append(path)
    assert ["sql", "append_batch", "append", "command", "POST /customers"] in paths, paths
    for span in spans.values():
        assert "Zaphod" not in str(span) and "1911-11-17" not in str(span), span


try:
    asyncio.run(trace_of_a_create())
except Exception as error:  # Whatever goes wrong is told.
    failed = True
    print(f"FAILED  {trace_of_a_create.__doc__}: {type(error).__name__}: {error}", flush=True)
else:
    print(f"ok      {trace_of_a_create.__doc__}", flush=True)

# Without this line `script/interop` counts the suite as broken off.
print("ended", flush=True)
raise SystemExit(1 if failed else 0)
