"""Completion in bash and zsh, where that of click falls short: values with `=` and `:`, and `--option=value`.

bash breaks words at these characters, so that `--filter state=ru` would be three words; and both shells would put a
blank behind `state=`. Must not know verbs.
"""

import os
from typing import Any, Final

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)  # fmt: skip

_CURSOR: Final = "\x1f"  # stands for the end of the line, so that the word before it is found whatever its quotes
_PLAIN: Final = "_@%+=:,./-"  # beside letters and digits
_BREAKS: Final = "=:"  # of COMP_WORDBREAKS, those that values have

_BASH: Final = r"""%(complete_func)s() {
    local IFS=$'\n' completion
    COMPREPLY=()
    for completion in $(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \
        COMP_WORD="${COMP_WORDS[COMP_CWORD]}" %(complete_var)s=bash_complete "$1"); do
        case $completion in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            *) COMPREPLY+=("${completion#*,}") ;;
        esac
    done
    if [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then
        compopt -o nospace
    fi
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH: Final = r"""#compdef %(prog_name)s

%(complete_func)s() {
    local -a plain open described response
    local type key description
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) %(complete_var)s=zsh_complete \
        %(prog_name)s)}")
    for type key description in ${response}; do
        case $type in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            *)
                if [[ $key == *= ]]; then
                    open+=("${key//\\:/:}")
                elif [[ $description == _ ]]; then
                    plain+=("$key")
                else
                    described+=("$key:$description")
                fi
                ;;
        esac
    done
    [[ -n $described ]] && _describe -V unsorted described -U
    [[ -n $plain ]] && compadd -U -V unsorted -a plain
    [[ -n $open ]] && compadd -U -S '' -V unsorted -a open
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""


def _means_itself(word: str) -> bool:
    """Return whether a shell takes the word as it is: it has no `$(…)`, blanks, quotes, patterns or operators."""
    return all(letter.isalnum() or letter in _PLAIN for letter in word)


def _split_option(word: str) -> tuple[str, str]:
    """Return `--option=`, or nothing, and the value."""
    name, equals, value = word.partition("=")
    return (f"{name}=", value) if equals and word.startswith("--") else ("", word)


class _Bash(BashComplete):
    """Reads the line itself, and returns what follows the last break of the word, which is all that bash replaces."""

    source_template = _BASH
    _replaced = ""  # the part of the value that bash keeps

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the one at it."""
        *args, word = split_arg_string(os.environ["COMP_LINE"] + _CURSOR)[1:]
        word = word.removesuffix(_CURSOR)
        is_quoted = os.environ.get("COMP_WORD", "")[:1] in {"'", '"'}
        breaks = "" if is_quoted else os.environ.get("COMP_WORDBREAKS", _BREAKS)
        _, value = _split_option(word)
        last = max((value.rfind(each) for each in _BREAKS if each in breaks), default=-1)
        self._replaced = value[: last + 1]
        return args, word

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[Any]]:
        """Return those that bash, which neither quotes nor escapes them, can insert: others may have written them."""
        found = super().get_completions(args, incomplete)
        return [item for item in found if item.type != "plain" or _means_itself(str(item.value))]

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return the line for the script."""
        return f"{item.type},{str(item.value).removeprefix(self._replaced)}"


class _Zsh(ZshComplete):
    """Returns whole words, with the option to which a value belongs."""

    source_template = _ZSH
    _option = ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the cursor, and the one at it."""
        args, word = super().get_completion_args()
        self._option, _ = _split_option(word)
        return args, word

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Return the lines for the script."""
        item.value = f"{self._option}{item.value}"
        return super().format_completion(item)


def install() -> None:
    """Have click use these."""
    add_completion_class(_Bash)
    add_completion_class(_Zsh)
