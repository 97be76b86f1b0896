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
token = None


def log_in():
    """A token of the account; of a new one with its role if a request has disabled it or changed its password."""
    global account
    login = {"username": account, "password": PASSWORD}
    answer = requests.post(f"{API}/login", json=login, timeout=10)
    if answer.status_code == 401:
        account = f"st-{ROLE}-{uuid.uuid4().hex[:8]}"
        add = [os.environ["PROGRAM"], "account", "add", account, "--role", ROLE, "--password-stdin"]
        subprocess.run(add, input=PASSWORD.encode(), stdout=subprocess.DEVNULL, check=True)
        return log_in()
    answer.raise_for_status()
    return answer.json()["access_token"]


@schemathesis.auth(refresh_interval=None)
class LogIn:
    def get(self, case, context):
        global token
        if token is None:
            token = log_in()
        return token

    def set(self, case, data, context):
        case.headers = case.headers or {}
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.hook
def after_call(context, case, response):
    global token
    changes_sessions = case.method != "GET" and not case.path.startswith("/customers")
    if changes_sessions or response.status_code == 401:
        token = None
