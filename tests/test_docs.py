"""README.md and docs/: every path, setting, command, option, target, link and name in them exists."""

import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel

from neuron_opsd import cli
from neuron_opsd.config import Config

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "neuron_opsd"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = "src|tests|docs|experiments|examples|benchmarks|scripts|constraints|.ci"
CODE = re.compile(r"^```.*?^```|(?:^(?: {4}|\t)[^\n]*\n)+|`([^`]+)`", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"(?<![\w/.<*-])[\w./-]+\.(?:py|md|sh|yaml|toml)\b(?!:\w)")
IN_REPOSITORY = re.compile(rf"(?<![\w/.-])(?:{FOLDERS})/[\w./*-]*")
NAME_IN_FILE = re.compile(r"^([\w/]+\.py): (\w+)$")
SETTING = re.compile(
    rf"(?<![\w./'-])({'|'.join(Config.model_fields)})\.(?!(?:md|sh|py|yaml)\b)([a-z_][a-z_.\d]*)(?![\w/(*])"
)
COMMAND = re.compile(r"neuron-opsd +([a-z][a-z-]*)([^\n|;&]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
MODULE = re.compile(r"neuron_opsd(?:\.\w+)+")
IDENTIFIER = re.compile(r"_?[a-z]+\w*_\w+(?:\(\))?|(?:[A-Z]\w*[a-z]\w*[A-Z]\w*)(?:\(\))?|\w+\(\)")
LINK = re.compile(r"\]\(([^)\s]+)\)")

# Files of a run, of the reader, and names of other programs.
NOT_OURS = {
    *(
        "exam.yaml",
        "teaching.yaml",
        "config.yaml",
        "report.md",
        "table.md",
        "shapes.md",
        "rollouts.sh",
        "frozen_teacher.yaml",
    ),
    *("option_a", "question_stem", "answer_choices", "answer_options"),
    *("model.generate", "--no-enable-chunked-prefill", "convert_hf_to_gguf.py"),
}


@cache
def commands() -> dict[str, set[str]]:
    """The options of each command; of the program itself under ''."""
    program: Any = typer.main.get_command(cli.app)
    found = {name: _options(command) for name, command in program.commands.items()}
    return {"": _options(program), **found}


def _options(command) -> set[str]:
    return {"--help"} | {
        word for option in command.params for word in [*option.opts, *option.secondary_opts] if "--" in word
    }


@cache
def options_of_scripts() -> frozenset[str]:
    """Options that scripts of ours name."""
    folders = ("experiments", "benchmarks", "scripts")
    texts = [path.read_text(encoding="utf-8") for name in folders for path in (ROOT / name).glob("*.*")]
    return frozenset(option for text in texts for option in OPTION.findall(text))


@cache
def words_of_the_code() -> frozenset[str]:
    """Every word of our sources, and of the packages' names that docs speak of."""
    texts = [
        path.read_text(encoding="utf-8")
        for folder in ("src", "tests", "experiments", "benchmarks", "scripts", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".yaml", ".sh", ".js", ".txt"} and path.name != "test_docs.py"
    ]
    return frozenset(word for text in texts for word in re.findall(r"\w+", text))


def codes(text: str) -> Iterator[str]:
    """What is set as code: `spans`, and indented or fenced blocks with their lines joined."""
    for match in CODE.finditer(text):
        code = match[1] if match[1] else match[0]
        yield re.sub(r"\\?\s*\\\n\s*", " ", code)


def wrong_names(text: str, page: Path) -> list[str]:
    """What the page names and the repository does not have."""
    wrong = [f"link {link}" for link in LINK.findall(text) if not _leads_somewhere(link, page)]
    for code in codes(text):
        if code in NOT_OURS:
            continue
        wrong += [f"file {name}" for name in FILE.findall(code) if not _is_file(name)]
        wrong += [f"path {name}" for name in IN_REPOSITORY.findall(code) if not _is_in_repository(name)]
        wrong += [
            f"{name} in {file}" for file, name in NAME_IN_FILE.findall(code) if not _defines(file, name)
        ]
        wrong += [f"module {name}" for name in MODULE.findall(code) if not _can_be_imported(name)]
        wrong += [f"setting {m[0]}" for m in SETTING.finditer(code) if not _is_setting(m[0])]
        wrong += list(_wrong_commands(code))
        if IDENTIFIER.fullmatch(code) and code.removesuffix("()") not in words_of_the_code():
            wrong.append(f"name {code}")
    return wrong


def _wrong_commands(code: str) -> Iterator[str]:
    known = commands()
    for name, rest in COMMAND.findall(code):
        if name not in known:
            yield f"command {name}"
        yield from (
            f"{name} {option}" for option in OPTION.findall(rest) if option not in known.get(name, ())
        )
    if code.startswith("--"):
        option = OPTION.match(code)
        if option and option[0] not in set().union(*known.values(), options_of_scripts()):
            yield f"option {option[0]}"
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:^|\n\s*)make ([a-z][a-z-]*)", code):
        if target not in targets:
            yield f"make {target}"


def _leads_somewhere(link: str, page: Path) -> bool:
    path, _, anchor = link.partition("#")
    if "://" in link:
        return True
    target = page.parent / path if path else page
    if not target.exists():
        return False
    headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
    slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return not anchor or anchor in slugs


@cache
def _is_file(name: str) -> bool:
    is_placeholder = name in NOT_OURS or re.match(r"/|[A-Z]+/", name)
    if is_placeholder or any((folder / name).is_file() for folder in (ROOT, SOURCE)):
        return True
    return "/" not in name and name in names_of_files()


@cache
def names_of_files() -> frozenset[str]:
    return frozenset(path.name for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*"))


def _is_in_repository(name: str) -> bool:
    return any(ROOT.glob(name.rstrip("/."))) if name.rstrip("/.") else True


def _defines(file: str, name: str) -> bool:
    path = SOURCE / file
    return (
        path.is_file()
        and re.search(
            rf"(?:def|class) {name}\b|^{name}\b.*=|^\s+{name}:",
            path.read_text(encoding="utf-8"),
            re.MULTILINE,
        )
        is not None
    )


def _can_be_imported(name: str) -> bool:
    if name.endswith((".yaml", ".json", ".py")):
        return True
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ImportError:
        try:
            return hasattr(importlib.import_module(module), attribute)
        except ImportError:
            return False
    return True


def _is_setting(name: str) -> bool:
    if name in NOT_OURS or any(SOURCE.glob(name.replace(".", "/", 1) + ".py")):
        return True
    kind: type[BaseModel] | None = Config
    for part in name.rstrip(".").split("."):
        if kind is None:
            return True  # inside a mapping, such as training.trainer.bf16
        field = kind.model_fields.get(part)
        if field is None:
            return False
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        kind = next((one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)), None)
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_exists(page: Path) -> None:
    assert not wrong_names(page.read_text(encoding="utf-8"), page)


def test_every_command_and_option_is_in_the_page_of_the_command_line() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    sections = {
        name: part
        for part in re.split(r"^#{2,3} ", page, flags=re.MULTILINE)
        for name in part.partition("\n")[0].split(", ")
    } | {"": page}
    missing = [
        f"{name} {option}"
        for name, options in commands().items()
        for option in sorted(options - {"--help"})
        if f"`{option}" not in sections.get(name, "") and f" {option}" not in sections.get(name, "")
    ]
    assert not missing
    assert not set(commands()) - set(sections)


def test_the_layout_in_the_readme_exists_and_is_whole() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("\n## Layout\n")[1].split("\n## ")[0]
    named = re.findall(r"(?<=[ (])(\w+)/", text.replace("src/neuron_opsd/", ""))
    missing = [name for name in named if not (SOURCE / name).is_dir() and not (ROOT / name).is_dir()]
    rooms = {path.parent.name for path in SOURCE.glob("*/*.py")}
    assert not missing
    assert not rooms - set(named)


def test_pages_and_their_sections_that_the_code_names_exist() -> None:
    wrong = []
    for path in [*SOURCE.rglob("*.py"), *SOURCE.rglob("*.yaml")]:
        text = path.read_text(encoding="utf-8")
        for page, sections in re.findall(r"(docs/\w+\.md)(?:, sections? ([\d, and]*\d))?", text):
            headings = (ROOT / page).read_text(encoding="utf-8") if (ROOT / page).is_file() else ""
            numbers = re.findall(r"\d+", sections)
            missing = [number for number in numbers if f"\n## {number}. " not in headings]
            wrong += [(path.name, page, *missing)] if missing or not headings else []
    assert not wrong


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("`neuron-opsd fly`", "command fly"),
        ("    neuron-opsd run demo \\\n        --outptu runs/x\n", "run --outptu"),
        ("`--outptu DIR`", "option --outptu"),
        ("`selection.fractoin=0.3`", "setting selection.fractoin"),
        ("`training.lora.rnak`", "setting training.lora.rnak"),
        ("`neurons/contributions.py`", "file neurons/contributions.py"),
        ("`neurons/sets.py: NeuronSetBulider`", "NeuronSetBulider in neurons/sets.py"),
        ("`tests/no_such_folder/`", "path tests/no_such_folder/"),
        ("`neuron_opsd.records.Roolout`", "module neuron_opsd.records.Roolout"),
        ("`read_answre()`", "name read_answre()"),
        ("`make dmeo`", "make dmeo"),
        ("[here](docs/dta.md)", "link docs/dta.md"),
        ("[here](docs/method.md#no-such-part)", "link docs/method.md#no-such-part"),
    ],
)
def test_a_name_that_does_not_exist_is_found(text: str, wrong: str) -> None:
    assert wrong in wrong_names(text, ROOT / "README.md")


def test_what_exists_is_not_complained_of() -> None:
    text = (
        "`neuron-opsd run demo --output runs/x selection.fraction=0.3`, `training.lora.rank`, `neurons/sets.py: "
        "NeuronSetBuilder`, `--stop-if-unlikely`, `neuron_opsd.records.Rollout`, [data](docs/data.md), `make demo`"
    )
    assert wrong_names(text, ROOT / "README.md") == []
