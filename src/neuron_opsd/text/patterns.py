r"""The table of patterns by which a reply states its answer. To teach the reader another form, add a row.

A row has a name (it becomes `Reading.kind`), a regular expression, and an example that a test reads: each example says
"C" of `EXAMPLE_CHOICES`. The expression is matched against the reply in lower case and without markup
(`cleaning.plain`), so write it in lower case.

- It ends right before the answer: "the answer is " and not the letter. `choices.py` reads what follows.
- Or it has a group `said` around the answer, where something must follow it: "C is correct".

Keep every repeat bounded ({0,8}, not *): a reply may be 100,000 times the same character.
"""

import re
from dataclasses import dataclass
from typing import Literal

EXAMPLE_CHOICES = ("insulin", "glucagon", "cortisol", "adrenaline")

# How much a pattern is worth. A reply's last "stated" answer wins. Where there is none, "said" ones count if they
# agree.
Weight = Literal["stated", "said"]


@dataclass(frozen=True, slots=True)
class Pattern:
    """One form in which replies give their answer."""

    name: str
    regex: re.Pattern[str]
    example: str
    weight: Weight = "stated"
    must_end: bool = False  # the answer must end its sentence: "So C." and not "So C is an option"
    in_free_form: bool = True  # also before an answer that is no choice

    @property
    def is_around(self) -> bool:
        """Whether the answer stands within the match, and not after it."""
        return bool(self.regex.groupindex)


def _row(name: str, regex: str, example: str, **how: object) -> Pattern:
    return Pattern(name, re.compile(regex), example, **how)  # pyright: ignore[reportArgumentType]


_LINE = r"(?:^|\n)[ >#*|\W_]{0,8}"
_FILL = r"(?:,? (?:[a-zà-ÿ'-]{2,20}|\d{1,4})){0,8}?"  # no lone letter: "answer A is"
_MARK = r"(?:[:=|~]|=>|->|→|[–—-](?=\W))"
_IS = (
    r"(?:(?:is|are|was|were|would be|must be|should be|has to be|will be|ought to be|might be|may be|"
    r"could be|can be|"
    r"(?:seems|appears|turns out|happens|proves|is likely|is found) to be|remains|"
    r"becomes)(?![a-z'])(?: given as| as follows)?"
    rf"[ ,]{{0,2}}{_MARK}?|{_MARK})"
)
_SENTENCE = r"(?:^|[\n.!?:;,(] ?)"

PATTERNS: tuple[Pattern, ...] = (
    # ---- marks that models are trained to put around an answer
    _row("boxed", r"\\(?:boxed|fbox|framebox) ?\{", r"The sum is 3, so \boxed{\text{C}}."),
    _row("box tokens", r"<\|begin_of_(?:box|solution)\|>", "<|begin_of_box|>C<|end_of_box|>"),
    _row(
        "tag",
        r"<(?:final[ _-]?)?(?:answer|choice|option|letter|solution|result|output|response|final)(?: [^<>]{0,40})?>",
        "It is a steroid.\n<answer>C. cortisol</answer>",
    ),
    _row("double brackets", r"\[\[", "My verdict is [[C]]."),
    _row("four hashes", r"(?:^|\n)#### ?(?!#)", "It is a steroid.\n#### C"),
    _row(
        "JSON",
        r"[\"'](?:the )?(?:final|correct|best|chosen|my|selected)?[ _-]?"
        r"(?:answer|choice|option|letter|selection|prediction|label|response|result|output|"
        r"value)(?:[ _-](?:choice|option|letter|key))?[\"'] ?[:=]",
        '{"reasoning": "a steroid", "answer": "C"}',
    ),
    # ---- English sentences and labels
    _row(
        "answer is",
        rf"\b(?:answers?|(?:correct|right|best|proper|appropriate|chosen|final|suitable|plausible|likely|"
        rf"accurate|closest|"
        rf"only|winning) (?:option|choice|one|letter|response|solution|alternative|result|match|fit|"
        rf"candidate)s?)\b{_FILL} ?{_IS}|\b(?:option|choice) ?{_IS}",
        "The answer to the question is most likely C.",
    ),
    _row(
        "label",
        rf"{_LINE}(?:my |the |your |final |correct |best |right |chosen |selected |overall ){{0,3}}"
        r"(?:answer|choice|option|pick|selection|selected|verdict|conclusion|response|solution|result|"
        r"letter|output|"
        r"prediction|guess|decision|ans|correct|ground truth)(?: [a-z]{2,12}){0,2} ?[:=|.)] ?",
        "My pick: C",
    ),
    _row(
        "heading",
        rf"{_LINE}(?:the |my )?(?:final |correct |best ){{0,2}}(?:answer|choice|conclusion|solution|verdict|"
        rf"selection)s?\W{{0,4}}\n",
        "**Final Answer**\n\n**C**",
    ),
    _row(
        "correction",
        r"\b(?:wait|actually|correction|scratch that|i mean|i meant|on second thought|sorry|"
        r"no)(?:(?<=actually)|(?<=mean)| ?[,:.!;–—-])[ ,:.!;–—-]{0,4}(?:no|wait|actually|hmm)?[ ,:.!;–—-]{0,4}"
        r"(?:(?:it|that)(?:'s| is| must be| should be)|make (?:it|that)|i(?: would|'d|'ll)? (?:choose|pick|"
        r"go with|say))? ?(?:option )?",
        "I thought of A. Wait, no: C.",
        must_end=True,
        in_free_form=False,
    ),
    # ---- the same in other languages
    _row(
        "German",
        r"\b(?:antwort(?:option|möglichkeit|buchstabe)?|lösung|auswahl|"
        r"wahl)\b(?: [a-zäöüß]{1,20}){0,6}? ?(?:(?:ist|lautet|wäre) ?:?|[:=]|[–—-](?=\W))",
        "Die richtige Antwort lautet C.",
    ),
    _row(
        "French",
        r"\br[ée]ponses?\b(?: [a-zà-ÿ']{1,20}){0,6}? ?(?:(?:est|sont|serait)(?!\w) ?:?|[:=]|[–—-](?=\W))",
        "La bonne réponse est donc la C.",
    ),
    _row(
        "Spanish",
        r"\b(?:respuesta|opción|opcion|alternativa) ?(?:[a-zà-ÿ]{1,20} ){0,6}?(?:(?:es|sería|son)(?!\w) ?:?|"
        r"[:=]|[–—-](?=\W))",
        "La respuesta correcta es la C.",
    ),
    _row(
        "Portuguese",
        r"\b(?:resposta|opção|opcao|alternativa) ?(?:[a-zà-ÿ]{1,20} ){0,6}?(?:(?:é|e|seria|são)(?!\w) ?:?|"
        r"[:=]|[–—-](?=\W))",
        "A resposta correta é a letra C.",
    ),
    _row(
        "Italian",
        r"\b(?:risposta|opzione|soluzione) ?(?:[a-zà-ÿ]{1,20} ){0,6}?(?:(?:è|e'|sarebbe|sono)(?!\w) ?:?|"
        r"[:=]|[–—-](?=\W))",
        "La risposta corretta è la C.",
    ),
    _row(
        "Russian",
        r"\b(?:ответ|вариант|решение)[а-яё]{0,3}(?: [а-яё]{1,20}){0,5}? ?(?:это|будет|является|[:=]|"
        r"[–—-](?=\W)) ?(?:это )?",
        "Правильный ответ — C.",
    ),
    _row(
        "Chinese",
        r"(?:答案|正确选项|正確選項)(?:应该|應該|应当|应|應|就|显然|最终|因此|即|是|为|為|選|选|:|=| ){1,6}"
        r"(?:选项|選項)?|(?<!不)(?<!不应)(?:应选|應選|故选|故選|选择|選擇|所以选|因此选|我选|我選|选|選)(?!项|項)"
        r"[: ]{0,2}(?:选项)?",
        "所以答案是 C，B不是。",
    ),
    _row(
        "Japanese", r"(?:答え|正解|解答|回答|答)(?:は|が|:|=| ){1,3}(?:選択肢)?", "したがって、正解はCです。"
    ),
    _row("Korean", r"(?:정답|답변|답|선택)(?:은|는|이|:|=| ){0,3}(?:선택지|보기)?", "따라서 정답은 C입니다."),
    _row(
        "Arabic",
        r"(?:الإجابة|الاجابة|الجواب|إجابة|الخيار|الحل)(?: \w{1,15}){0,3}? ?(?:هي|هو|:|=)[ :]{0,2}(?:الخيار|"
        r"الحرف)? ?",
        "الإجابة الصحيحة هي C.",
    ),
    # ---- sentences that say the answer without the word
    _row(
        "is correct",
        rf"(?:{_SENTENCE}|\b(?:so|thus|hence|therefore|that|option|choice|answer|letter|only|think|believe|"
        rf"why|alternative|"
        r"statement|because|since|but) )(?P<said>\(?[a-z](?:\)|\b)(?:[.):] [^.\n]{1,80}?)?) ?(?:(?:is|was|"
        r"must be|should be|would be|seems|looks)"
        r"(?: (?:indeed|clearly|therefore|thus|definitely|probably|most likely|likely|the|my|also|a|"
        r"obviously|actually|only|most|"
        r"single|best|final)){0,3} (?:correct|right|best|answer|accurate|true|appropriate|accepted|"
        r"acceptable|valid|plausible|reasonable|one|choice|"
        r"option)\b|[:–—-] ?(?:correct|right|yes|true)\b)",
        "Option C is the correct choice, because it is a steroid.",
        weight="said",
        in_free_form=False,
    ),
    _row(
        "marked",
        r"(?:^|\n|[;|] ?)\W{0,4}(?P<said>[a-z](?:[.):][^\n]{0,120}?)?) ?(?:[✓✔✅☑]|\((?:correct|right|"
        r"best)(?: answer)?\)|<-{1,3}|←)",
        "A. insulin\nB. glucagon\nC. cortisol ✓\nD. adrenaline",
        weight="said",
        in_free_form=False,
    ),
    _row(
        "ticked",
        r"(?:[✓✔✅☑]|\[[x✓✔]\])[ :-]{0,3}(?!\n)",
        "✅ C. cortisol",
        weight="said",
        in_free_form=False,
    ),
    _row(
        "I choose",
        r"\b(?:i|we|i'd|i'll|let me|let's|let us|going to|i'm|i am)(?:'d|'ll|'m)?(?: (?:would|will|am|"
        r"have to|must|should|still|therefore|"
        r"probably|definitely|thus|then|confidently|most likely|had to)){0,3} "
        r"(?:going with|go with|going for|go for|choose|chose|pick|picked|select|selected|opt for|say|"
        r"answer|vote for|"
        r"settle on|lean towards?|guess|conclude|think|believe)(?: (?:that|it|is|it's|it is|with|on|"
        r"the answer is|the)){0,3} ",
        "I would go with C.",
        weight="said",
        in_free_form=False,
    ),
    _row(
        "conclusion",
        rf"{_SENTENCE}(?:and )?(?:hence|therefore|thus|so|consequently|accordingly|in conclusion|in summary|"
        rf"to conclude|conclusion|"
        r"finally|overall|which leaves|that leaves|this leaves|leaving|leaves)(?: us with)? ?[,:]? ?"
        r"(?:it(?: is|'s| must be)|(?:this|that) is|we have|we get|only)? ?",
        "It is made by the cortex. Hence C",
        weight="said",
        must_end=True,
        in_free_form=False,
    ),
    _row(
        "it is",
        r"\b(?:it|this|that)(?:'s| is| was| must be| has to be| should be| would be| will be| seems to be|"
        r" can only be) (?!also\b)",
        "Of the four, it must be C.",
        weight="said",
        must_end=True,
        in_free_form=False,
    ),
    _row(
        "corresponds to",
        r"\b(?:corresponds? to|correspond(?:s|ing) with|matches|fits|equals|which is|namely|i\.e\.,?|"
        r"points? to|leads? to|consistent with|described (?:by|in)) "
        r"(?:the )?(?:option|choice|answer|letter) ",
        "A steroid of the cortex corresponds to option C.",
        weight="said",
        must_end=True,
        in_free_form=False,
    ),
    _row(
        "ends with is",
        r"(?:\b(?:is|be|are|namely)|[=→:]|->) ?(?P<said>(?:\([a-z]\)|[a-z]))(?:[. ]{0,2}[^\w\n]{0,4}$)|"
        r"(?P<bracketed>\([a-z]\))[.!]?$",
        "Of all four, the steroid is (C).",
        weight="said",
        must_end=True,
        in_free_form=False,
    ),
    _row(
        "correct, in another language",
        rf"(?:{_SENTENCE}|\b(?:option|opción|opção|opzione|antwort|réponse|l'option|respuesta|risposta|"
        rf"resposta|alternativa|"
        r"вариант|ответ|选项|選択肢|الخيار) ?)(?P<said>\(?[a-z](?:\)|(?![a-zà-ÿ0-9'-]))) ?(?:ist|es|est|è|é|"
        r"является|[–—-])? ?(?:die |la |le |a |il |das )?"
        r"(?:bonne réponse|richtig|korrekt|correct[ae]\b|corr?et?ta\b|exacte|giusta|certa\b|правильн|верн|"
        r"(?:是)?(?:正确|正確|对的)|が正|が答え|(?:가|이) (?:정답|맞)|"
        r"(?:هو|هي) (?:الصحيح|الإجابة|الجواب))",
        "Option C ist richtig.",
        weight="said",
        in_free_form=False,
    ),
)
