"""Which programming language a file is in, by its name or its first line."""

from __future__ import annotations

import re
from pathlib import PurePath

# What a code fence calls it -> suffixes. Suffixes that are no language (.txt, .md) have no entry.
_SUFFIXES = {
    "ada": "adb ads",
    "asm": "asm s",
    "awk": "awk",
    "bash": "sh bash ksh zsh bats",
    "batch": "bat cmd",
    "c": "c h",
    "clojure": "clj cljs cljc edn",
    "cmake": "cmake",
    "cpp": "cc cpp cxx c++ hh hpp hxx h++ ipp",
    "csharp": "cs csx",
    "css": "css",
    "csv": "csv",
    "cuda": "cu cuh",
    "d": "d",
    "dart": "dart",
    "diff": "diff patch",
    "dockerfile": "dockerfile",
    "elixir": "ex exs",
    "elm": "elm",
    "erlang": "erl hrl",
    "fish": "fish",
    "fortran": "f f90 f95 f03 for",
    "fsharp": "fs fsi fsx",
    "glsl": "glsl vert frag comp",
    "go": "go",
    "graphql": "graphql gql",
    "groovy": "groovy gradle",
    "haskell": "hs lhs",
    "hcl": "hcl tf tfvars",
    "ini": "ini cfg conf properties editorconfig service desktop",
    "java": "java",
    "javascript": "js mjs cjs",
    "jinja": "j2 jinja jinja2",
    "json": "json jsonl ndjson geojson ipynb webmanifest",
    "json5": "json5 jsonc",
    "jsx": "jsx",
    "julia": "jl",
    "kotlin": "kt kts",
    "latex": "tex sty cls bib",
    "less": "less",
    "lisp": "lisp cl el",
    "lua": "lua",
    "makefile": "mk mak",
    "matlab": "m",
    "metal": "metal",
    "nim": "nim",
    "nix": "nix",
    "objectivec": "mm",
    "ocaml": "ml mli",
    "pascal": "pas pp",
    "perl": "pl pm t",
    "php": "php",
    "powershell": "ps1 psm1 psd1",
    "prolog": "pro",
    "protobuf": "proto",
    "python": "py pyi pyw",
    "r": "r rmd",
    "ruby": "rb rake gemspec",
    "rust": "rs",
    "scala": "scala sbt sc",
    "scheme": "scm ss rkt",
    "scss": "scss sass",
    "solidity": "sol",
    "sql": "sql",
    "starlark": "bzl bazel star",
    "svelte": "svelte",
    "swift": "swift",
    "systemverilog": "sv svh",
    "tcl": "tcl",
    "toml": "toml",
    "tsv": "tsv",
    "tsx": "tsx",
    "typescript": "ts mts cts",
    "verilog": "v vh",
    "vhdl": "vhd vhdl",
    "vim": "vim",
    "vue": "vue",
    "xml": "xml xsd xsl xslt svg plist rss atom csproj",
    "yaml": "yaml yml",
    "zig": "zig",
}
_BY_SUFFIX = {
    suffix: language for language, suffixes in _SUFFIXES.items() for suffix in suffixes.split()
}
_BY_NAME = {
    "makefile": "makefile",
    "gnumakefile": "makefile",
    "justfile": "makefile",
    "dockerfile": "dockerfile",
    "containerfile": "dockerfile",
    "cmakelists.txt": "cmake",
    "jenkinsfile": "groovy",
    "vagrantfile": "ruby",
    "gemfile": "ruby",
    "rakefile": "ruby",
    "brewfile": "ruby",
    "build": "starlark",
    "workspace": "starlark",
    "meson.build": "meson",
    ".bashrc": "bash",
    ".bash_profile": "bash",
    ".profile": "bash",
    ".zshrc": "bash",
    ".vimrc": "vim",
    ".gitconfig": "ini",
    ".npmrc": "ini",
    "pipfile": "toml",
    "cargo.lock": "toml",
    "go.mod": "go",
}
_SHEBANG = re.compile(r"#!\s*\S*?/?(?:env\s+(?:-\S+\s+)*)?([a-z]+)[\d.]*(?:\s|$)")
_INTERPRETERS = {
    **dict.fromkeys(("sh", "bash", "dash", "ksh", "zsh"), "bash"),
    **{name: name for name in ("awk", "fish", "lua", "perl", "php", "python", "ruby", "tcl")},
    "node": "javascript",
    "deno": "typescript",
    "rscript": "r",
    "pwsh": "powershell",
}


def language_of(name: str, text: str) -> str:
    """What a code fence calls the language of a file so named; "" for prose."""
    path = PurePath(name.lower())
    known = _BY_NAME.get(path.name) or _BY_SUFFIX.get(path.suffix[1:])
    if known:
        return known
    shebang = _SHEBANG.match(text)
    first = path.name.partition(".")[0]  # Dockerfile.test, Makefile.am
    if shebang:
        return _INTERPRETERS.get(shebang[1], "")
    return _BY_NAME.get(first, "") if path.name.startswith(("dockerfile.", "makefile.")) else ""
