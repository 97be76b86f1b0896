"""Runs the programs of docs/clients.md that need packages of the registries, those with a client that a generator has
made of the document among them. `script/interop` installs and runs it."""

import os
import pathlib
import shutil
import subprocess
import sys

import checks

ROOT = pathlib.Path(os.environ["ROOT"])
INSTALLED = pathlib.Path(os.environ["INSTALLED"])
PAGE = (ROOT / "docs" / "clients.md").read_text()
FENCE = "```"
# How long one program may take, in seconds.
LIMIT = 120


def block(text, language):
    return text.partition(f"{FENCE}{language}\n")[2].partition(FENCE)[0]


def program(heading, language):
    """The program below a heading of the page."""
    text = block(PAGE.partition(f"\n## {heading}\n")[2], language)
    assert text, f"docs/clients.md has no {heading}"
    return text


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, **options)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stdout}{done.stderr}"
    return done.stdout


def check_output(printed):
    """`...` of the page stands for anything."""
    expected, lines = block(PAGE, "text").splitlines(), printed.splitlines()
    assert len(expected) == len(lines), printed
    for wanted, line in zip(expected, lines):
        start, dots, end = wanted.partition("...")
        same = line == wanted if not dots else line.startswith(start) and line.endswith(end)
        assert same, f"{line!r} is not {wanted!r}"


def folder(name):
    path = pathlib.Path.cwd() / name
    path.mkdir()
    return path


@checks.check
def _():
    """the program in Python, with requests"""
    check_output(run(sys.executable, "-c", program("Python", "python")))


@checks.check
def _():
    """the program in JavaScript, with fetch"""
    file = folder("javascript") / "client.mjs"
    file.write_text(program("JavaScript", "js"))
    check_output(run("node", file))


@checks.check
def _():
    """openapi-typescript and openapi-fetch: the program compiles with the types of the document, and runs"""
    # Below the packages, where Node.js looks for them.
    place = INSTALLED / "typescript"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    (place / "client.ts").write_text(program("TypeScript, from the document", "ts"))
    programs = INSTALLED / "node_modules" / ".bin"
    run(programs / "openapi-typescript", ROOT / "openapi.json", "-o", place / "customers.d.ts")
    settings = ["--strict", "--noUncheckedIndexedAccess", "--skipLibCheck", "--target", "es2022"]
    settings += ["--module", "nodenext", "--moduleResolution", "nodenext", "--types", "node"]
    compile_with = [programs / "tsc", *settings]
    run(*compile_with, "--outDir", place / "made", place / "client.ts", cwd=place)
    check_output(run("node", place / "made" / "client.js"))
    # What the document does not have does not compile.
    wrong = (place / "client.ts").read_text().replace('"/customers/{id}"', '"/customer/{id}"')
    (place / "wrong.ts").write_text(wrong)
    command = [*compile_with, "--noEmit", place / "wrong.ts"]
    assert subprocess.run(command, cwd=place, capture_output=True, timeout=LIMIT).returncode != 0


@checks.check
def _():
    """openapi-python-client: the program runs with the client of the document"""
    place = folder("python")
    (place / "config.yml").write_text("package_name_override: customers_client\nproject_name_override: customers-client\n")
    generate = [pathlib.Path(sys.executable).parent / "openapi-python-client", "generate", "--meta", "none"]
    made = place / "customers_client"
    run(*generate, "--path", ROOT / "openapi.json", "--config", place / "config.yml", "--output-path", made)
    text = program("Python, from the document", "python")
    check_output(run(sys.executable, "-c", text, env={**os.environ, "PYTHONPATH": str(place)}))


checks.end()
