"""Logs Schemathesis in, again whenever a request has ended its session."""

import datetime
import os
import subprocess
import uuid

import hypothesis.strategies
import requests
import schemathesis

API = os.environ["API"]
ROLE = os.environ["ROLE"]
PASSWORD = os.environ["PASSWORD"]

# Dates that a date of birth may be.
BIRTHS = hypothesis.strategies.dates(datetime.date(1900, 1, 1), datetime.date(2020, 1, 1))
schemathesis.openapi.format("date", BIRTHS.map(str))

account = f"st-{ROLE}"
session = None


def log_in():
    """Token and cookies of the account; of a new one with its role if a request has disabled it or changed its password."""
    global account
    login = {"username": account, "password": PASSWORD}
    answer = requests.post(f"{API}/login", json=login, timeout=10)
    if answer.status_code == 401:
        account = f"st-{ROLE}-{uuid.uuid4().hex[:8]}"
        add = [os.environ["PROGRAM"], "account", "add", account, "--role", ROLE, "--password-stdin"]
        subprocess.run(add, input=PASSWORD.encode(), stdout=subprocess.DEVNULL, check=True)
        return log_in()
    answer.raise_for_status()
    return answer.json()["access_token"], answer.cookies.get_dict()


@schemathesis.auth(refresh_interval=None)
class LogIn:
    def get(self, case, context):
        global session
        if session is None:
            session = log_in()
        return session

    def set(self, case, data, context):
        token, cookies = data
        case.headers = case.headers or {}
        case.headers["Authorization"] = f"Bearer {token}"
        case.cookies = {**(case.cookies or {}), **cookies}


@schemathesis.hook
def after_call(context, case, response):
    global session
    changes_sessions = case.method != "GET" and not case.path.startswith("/customers")
    if changes_sessions or response.status_code == 401:
        session = None


@schemathesis.hook
def filter_case(context, case):
    """Without cases whose only fault is a header that the document does not have: those are ignored, as RFC 9110,
    section 5.1 asks, and not refused."""
    return not any("unknown-property" in name for name in case.headers or {})
