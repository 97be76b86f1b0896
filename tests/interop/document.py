"""The document of the API, and the service against it, by tools that this project did not write: openapi-spec-validator,
Spectral, Schemathesis. `script/interop` installs and runs it."""

import json
import os
import pathlib
import subprocess
import sys

import checks
from openapi_spec_validator import OpenAPIV31SpecValidator

ROOT = pathlib.Path(os.environ["ROOT"])
INSTALLED = pathlib.Path(os.environ["INSTALLED"])
HERE = pathlib.Path(__file__).resolve().parent
DOCUMENT = ROOT / "openapi.json"
PASSWORD = "correct horse battery"
# Requests per operation and phase: SCHEMATHESIS_EXAMPLES for more.
EXAMPLES = os.environ.get("SCHEMATHESIS_EXAMPLES", "20")
# How long Schemathesis may take for one role, in seconds.
LIMIT = 1200


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}"
    return done.stdout


@checks.check
def _():
    """openapi-spec-validator: the document is OpenAPI 3.1"""
    errors = list(OpenAPIV31SpecValidator(json.loads(DOCUMENT.read_text())).iter_errors())
    assert not errors, errors[0]


@checks.check
def _():
    """Spectral: the document keeps its rules for OpenAPI"""
    spectral = INSTALLED / "node_modules" / ".bin" / "spectral"
    run(spectral, "lint", DOCUMENT, "--ruleset", HERE / "spectral.yaml", "--fail-severity", "warn", timeout=LIMIT)


def schemathesis(role):
    account = [os.environ["PROGRAM"], "account", "add", f"st-{role}", "--role", role, "--password-stdin"]
    added = subprocess.run(account, input=PASSWORD, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert added.returncode == 0, added.stdout
    program = pathlib.Path(sys.executable).parent / "schemathesis"
    command = [program, "--config-file", HERE / "schemathesis.toml", "run", DOCUMENT, "--url", os.environ["API"]]
    command += ["--max-examples", EXAMPLES, "--seed", "1"]
    environment = {
        **os.environ,
        "ROLE": role,
        "PASSWORD": PASSWORD,
        "PYTHONPATH": str(HERE),
        "SCHEMATHESIS_HOOKS": "schemathesis_hooks",
    }
    report = run(*command, env=environment, timeout=LIMIT)
    print("\n".join(line for line in report.splitlines() if "generated" in line or "operations" in line.lower()))


ROLES = os.environ["ROLES"].split(",")
for each in ROLES:
    checks.run(f"Schemathesis: all checks as {each}", schemathesis, each)
checks.end()
