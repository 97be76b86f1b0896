"""The API through Python clients that this project did not write. `script/interop` installs and runs it."""

import asyncio
import csv
import io
import json
import os
import subprocess
import urllib.parse
from datetime import datetime, timedelta, timezone

import httpx
import jwt
import pandas
import requests
import sseclient
from cloudevents.core.bindings.http import HTTPMessage, from_http_event
from oauthlib.oauth2 import BackendApplicationClient, InvalidClientError
from requests_oauthlib import OAuth2Session

API = os.environ["API"]
LOG_IN = {"username": "demo", "password": "demo-password"}
NAMES = ["Zoë 🦀 Łódź", 'Quote " and, comma', "=1+1", "Ada O'Brien"]
failed = False


def check(step):
    """Runs one check; it fails by an exception."""
    global failed
    name = step.__doc__
    try:
        asyncio.run(step()) if asyncio.iscoroutinefunction(step) else step()
    except Exception as error:  # Whatever goes wrong, the other checks go on.
        failed = True
        print(f"FAILED  {name}: {type(error).__name__}: {error}", flush=True)
    else:
        print(f"ok      {name}", flush=True)


def session():
    """A logged-in requests session, which keeps the cookie by itself."""
    client = requests.Session()
    answer = client.post(f"{API}/login", json=LOG_IN, timeout=10)
    answer.raise_for_status()
    client.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
    return client


def exported(form):
    program = [os.environ["PROGRAM"], "export", "--format", form]
    return subprocess.run(program, check=True, stdout=subprocess.PIPE).stdout


@check
def _():
    """requests: names of four kinds are created, changed under If-Match, read and deleted"""
    client = session()
    for name in NAMES:
        made = client.post(f"{API}/customers", json={"name": name, "dob": "1990-12-10"}, timeout=10)
        assert made.status_code == 201, made.text
        url = urllib.parse.urljoin(API, made.headers["Location"])
        assert client.get(url, timeout=10).json()["name"] == name
        changed = client.put(
            url, json={"name": name, "dob": "1990-12-11"}, headers={"If-Match": made.headers["ETag"]}, timeout=10
        )
        assert changed.json()["version"] == 2, changed.text
        stale = client.delete(url, headers={"If-Match": made.headers["ETag"]}, timeout=10)
        assert stale.status_code == 412 and stale.headers["Content-Type"] == "application/problem+json", stale.text
        assert client.delete(url, timeout=10).status_code == 200
        assert client.get(url, timeout=10).status_code == 404


@check
def _():
    """requests: Link rel=next leads through all pages, each customer once"""
    client = session()
    url, seen = f"{API}/customers?limit=17", []
    while url:
        page = client.get(url, timeout=10)
        seen += [customer["id"] for customer in page.json()["customers"]]
        following = page.links.get("next")
        url = following and urllib.parse.urljoin(url, following["url"])
    assert len(seen) == len(set(seen)) == len(client.get(f"{API}/customers", timeout=10).json()["customers"])


@check
def _():
    """requests: a generator is imported in chunks, and its answer read line by line"""
    client = session()
    lines = (json.dumps({"name": f"Person {n}", "dob": "1980-01-02"}).encode() + b"\n" for n in range(1, 2001))
    headers = {"Content-Type": "application/x-ndjson"}
    with client.post(f"{API}/customers/import", data=lines, headers=headers, stream=True, timeout=60) as answer:
        told = [json.loads(line) for line in answer.iter_lines()]
    assert told[-1]["summary"]["created"] == 2000, told[-1]


@check
def _():
    """csv: a file of csv.writer is imported, also in the dialect of Excel with semicolons"""
    client = session()
    for delimiter in ",;":
        file = io.StringIO()
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["name", "dob"])
        writer.writerows([f'Last, "{n}"; first', "1971-03-04"] for n in range(10))
        headers = {"Content-Type": "text/csv"}
        body = file.getvalue().encode("utf-8-sig")
        answer = client.post(f"{API}/customers/import", data=body, headers=headers, timeout=60)
        summary = json.loads(answer.text.splitlines()[-1])["summary"]
        assert summary["created"] == 10, answer.text


@check
async def _():
    """httpx: fifty requests at once on one HTTP/2 connection"""
    async with httpx.AsyncClient(http1=False, http2=True, base_url=API) as client:
        token = (await client.post("/login", json=LOG_IN)).json()["access_token"]
        client.headers["Authorization"] = f"Bearer {token}"
        assert (await client.get("/customers?numbers=1")).http_version == "HTTP/2"
        answers = await asyncio.gather(*(client.get(f"/customers?numbers={n}") for n in range(50)))
        assert [answer.json()["number"] for answer in answers] == list(range(50))


@check
def _():
    """sseclient-py: the stream is read from a position, and again from the last event id"""
    client = session()
    with client.get(f"{API}/events/stream?after=0", stream=True, timeout=10) as stream:
        events = sseclient.SSEClient(stream).events()
        first = [next(events) for _ in range(3)]
    assert [event.id for event in first] == ["1", "2", "3"]
    headers = {"Last-Event-ID": first[-1].id}
    with client.get(f"{API}/events/stream", headers=headers, stream=True, timeout=10) as stream:
        following = next(sseclient.SSEClient(stream).events())
    assert following.id == "4" and json.loads(following.data)["position"] == 4


@check
def _():
    """cloudevents: each event of the feed is one"""
    client = session()
    headers = {"Accept": "application/cloudevents-batch+json"}
    batch = client.get(f"{API}/events?limit=1000", headers=headers, timeout=10).json()
    assert len(batch) > 100
    for number, event in enumerate(batch, 1):
        message = HTTPMessage({"content-type": "application/cloudevents+json"}, json.dumps(event).encode())
        read = from_http_event(message)
        assert read.get_id() == str(number) and read.get_specversion() == "1.0", event
        assert read.get_type().startswith("customers."), event


@check
def _():
    """PyJWT: a token is verified with the published keys, and a changed one is not"""
    token = session().headers["Authorization"].removeprefix("Bearer ")
    keys = jwt.PyJWKClient(f"{API}/.well-known/jwks.json")
    key = keys.get_signing_key_from_jwt(token)
    claims = jwt.decode(token, key, algorithms=["EdDSA"], audience="customers", issuer=API)
    assert claims["sub"] == "demo", claims
    head, body, signature = token.split(".")
    try:
        jwt.decode(f"{head}.{body[:-2]}AA.{signature}", key, algorithms=["EdDSA"], audience="customers", issuer=API)
    except jwt.InvalidTokenError:
        return
    raise AssertionError("a changed token was accepted")


def service_key(username):
    """A service key of an account of its own."""
    admin = session()
    account = {"username": username, "password": "a good password", "role": "editor"}
    assert admin.post(f"{API}/accounts", json=account, timeout=10).status_code == 201
    end = datetime.now(timezone.utc) + timedelta(days=1)
    key = {"name": "interop", "expires_at": end.isoformat()}
    added = admin.post(f"{API}/accounts/{username}/keys", json=key, timeout=10)
    assert added.status_code == 201, added.text
    return added.json()["client_id"], added.json()["client_secret"]


@check
def _():
    """requests-oauthlib: it gets tokens in both ways, creates customers, and is told of a wrong secret"""
    os.environ["OAUTHLIB_INSECURE_TRANSPORT"] = "1"  # The service of this suite is on plain http.
    client_id, secret = service_key("python")
    for in_body in [False, True]:
        client = OAuth2Session(client=BackendApplicationClient(client_id=client_id))
        how = {"token_url": f"{API}/oauth/token", "include_client_id": in_body, "timeout": 10}
        token = client.fetch_token(client_secret=secret, **how)
        assert token["scope"] == ["editor"], token
        made = client.post(f"{API}/customers", json={"name": "Grace Hopper", "dob": "1906-12-09"}, timeout=10)
        assert made.status_code == 201, made.text
        try:
            client.fetch_token(client_secret=f"{secret}x", **how)
        except InvalidClientError as error:
            assert error.error == "invalid_client", error
        else:
            raise AssertionError("a wrong secret got a token")


@check
def _():
    """csv and pandas: both read the same events from an export as from the feed"""
    rows = list(csv.DictReader(io.StringIO(exported("csv").decode(), newline="")))
    head = session().get(f"{API}/events?limit=1", timeout=10).json()["head"]
    assert len(rows) >= head - 10 and [row["position"] for row in rows] == [str(n) for n in range(1, len(rows) + 1)]
    frame = pandas.read_csv(io.BytesIO(exported("csv")))
    assert list(frame["position"])[: len(rows)] == list(range(1, len(rows) + 1))
    lines = pandas.read_json(io.BytesIO(exported("ndjson")), lines=True)
    assert list(lines["position"])[: len(rows)] == list(range(1, len(rows) + 1))
    names = {data.get("name") for data in lines["data"] if isinstance(data, dict)}
    assert set(NAMES) <= names, set(NAMES) - names


# Without this line `script/interop` counts the suite as broken off.
print("ended", flush=True)
raise SystemExit(1 if failed else 0)
