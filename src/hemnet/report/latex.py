"""Any text as LaTeX that pdflatex sets with its own fonts and without packages."""

import re
import unicodedata

JOINED = "\N{ZERO WIDTH NON-JOINER}"
"""Stands between two letters that LaTeX would make one of."""
BREAK = "\N{ZERO WIDTH SPACE}"
"""Where a line may end within a word."""
SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", "–": "--", "—": "---", "−": "$-$", "±": r"$\pm$",
    "×": r"$\times$", "·": r"$\cdot$", "…": r"\ldots{}", "→": r"$\rightarrow$", "∂": r"$\partial$",
    "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "√": r"$\surd$", "∞": r"$\infty$", "†": r"\dag{}",
    "°": r"$^\circ${}", "⁄": "/", "ß": r"\ss{}",
    "æ": r"\ae{}", "Æ": r"\AE{}", "ø": r"\o{}", "Ø": r"\O{}", "ł": r"\l{}", "Ł": r"\L{}",
    "œ": r"\oe{}", "Œ": r"\OE{}", "ı": r"\i{}", "‘": "`", "’": "'", "“": "``", "”": "''",
    "\N{NO-BREAK SPACE}": "~", JOINED: "{}", BREAK: r"\allowbreak{}",
}  # fmt: skip
GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "epsilon", "ζ": "zeta", "η": "eta",
    "θ": "theta", "ι": "iota", "κ": "kappa", "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi",
    "ρ": "rho", "ς": "varsigma", "σ": "sigma", "τ": "tau", "υ": "upsilon", "φ": "phi", "χ": "chi", "ψ": "psi",
    "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda", "Ξ": "Xi", "Π": "Pi", "Σ": "Sigma",
    "Υ": "Upsilon", "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega",
}  # fmt: skip
ACCENTS = {
    "\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
    "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c",
}  # fmt: skip
COMMANDS = {"<super>": r"\textsuperscript", "<sub>": r"\textsubscript"}


def escape_tex(text: str) -> str:
    """Return LaTeX, in ASCII, that shows a text.

    A letter for which pdflatex has no sign is shown by its number, such as U+65E5; line breaks and what
    cannot be seen are spaces. A hyphen before a number, or in an exponent, is a minus: no line ends after it.
    """
    text = unicodedata.normalize("NFC", text)
    text = re.sub(r"((?<![\w-])|(?<=\de))-(?=\.?\d)", "−", text)
    text = re.sub("(?<=[-'`,!?])(?=[-'`,])", JOINED, text)
    tex = "".join(map(_letter, text))
    for command, sign in (("super", "^"), ("sub", "_")):  # beside a formula, a part of it
        tex = re.sub(rf"(?<!\\)\$\\text{command}script{{([^{{}}$]*)}}", rf"{sign}{{\1}}$", tex)
    # At the beginning of a row, the two signs would be options of the end of the row before it.
    return re.sub(r"^( *)([\[*])", r"\1{\2}", tex)


def _letter(letter: str) -> str:
    if letter in SPECIAL:
        return SPECIAL[letter]
    if letter in GREEK:
        return rf"$\{GREEK[letter]}$"
    if unicodedata.category(letter)[0] in "CZ":
        return " "
    return letter if letter.isascii() else _composed(letter)


def _composed(letter: str) -> str:
    """Return a letter with an accent, or above or below the line, by what Unicode says that it is made of."""
    made_of = unicodedata.decomposition(letter).split()
    if made_of and made_of[0].startswith("<"):
        inner = "".join(_letter(chr(int(code, 16))) for code in made_of[1:])
        return f"{COMMANDS[made_of[0]]}{{{inner}}}" if made_of[0] in COMMANDS else inner
    if made_of and (accent := ACCENTS.get(chr(int(made_of[-1], 16)))):
        return f"\\{accent}{{{_letter(chr(int(made_of[0], 16)))}}}"
    return f"U+{ord(letter):04X}"
