"""The same questions in eight languages: arithmetic, weekdays and tables, also right to left.

The sentences are made so that no number or noun has to be inflected: amounts are in kg, and days
are counted in ranges that take one plural.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from burnish.evaluation.levels.section import (
    Item,
    Level,
    LevelSection,
    choice_item,
    continuation_item,
)
from burnish.evaluation.levels.tables import Row, written
from burnish.evaluation.levels.words import ladder


@dataclass(frozen=True, slots=True)
class Language:
    """The sentences of one language.

    `goods` are as they stand after "kg of", `names` as they stand alone. `days` is for 5 to 10
    days and `many_days` for more; {a}, {b} and {p} are numbers, {g} is a name and {d} a weekday.
    """

    has: str
    sells: str
    buys: str
    left: str
    now: str
    price: str
    tomorrow: str
    days: str
    many_days: str
    cell: str
    highest: str
    total: str
    headers: tuple[str, str, str]
    weekdays: tuple[str, ...]
    names: tuple[str, ...]
    goods: tuple[str, ...] = ()
    gap: str = " "
    comma: str = ","


LANGUAGES = {
    "es": Language(
        "Una tienda tiene {a} kg de {g}.", "Vende {b} kg.", "Después compra {c} kg más.",
        "¿Cuántos kilogramos quedan?", "¿Cuántos kilogramos tiene ahora?",
        "Cada kilogramo cuesta {p} euros. ¿Cuántos euros vale lo que tiene ahora?",
        "Hoy es {d}. ¿Qué día es mañana?",
        "Hoy es {d}. ¿Qué día de la semana será dentro de {n} días?",
        "Hoy es {d}. ¿Qué día de la semana será dentro de {n} días?",
        "¿Qué precio figura en la fila «{g}»?", "¿Qué producto tiene el precio más alto?",
        "¿Cuál es la suma de precio por existencias de todas las filas?",
        ("Producto", "Precio", "Existencias"),
        ("lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"),
        ("arroz", "azúcar", "harina", "sal", "café", "queso", "pan", "miel"),
    ),
    "fr": Language(
        "Un magasin a {a} kg de {g}.", "Il vend {b} kg.", "Ensuite, il achète {c} kg de plus.",
        "Combien de kilogrammes reste-t-il ?", "Combien de kilogrammes a-t-il maintenant ?",
        "Chaque kilogramme coûte {p} euros. Combien d'euros vaut ce qu'il a maintenant ?",
        "Aujourd'hui, nous sommes {d}. Quel jour serons-nous demain ?",
        "Aujourd'hui, nous sommes {d}. Quel jour de la semaine serons-nous dans {n} jours ?",
        "Aujourd'hui, nous sommes {d}. Quel jour de la semaine serons-nous dans {n} jours ?",
        "Quel prix figure à la ligne « {g} » ?", "Quel produit a le prix le plus élevé ?",
        "Quelle est la somme des prix multipliés par les stocks de toutes les lignes ?",
        ("Produit", "Prix", "Stock"),
        ("lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"),
        ("riz", "sucre", "farine", "sel", "café", "fromage", "pain", "miel"),
    ),
    "de": Language(
        "Ein Laden hat {a} kg {g}.", "Er verkauft {b} kg.", "Danach kauft er {c} kg dazu.",
        "Wie viele Kilogramm bleiben übrig?", "Wie viele Kilogramm hat er jetzt?",
        "Jedes Kilogramm kostet {p} Euro. Wie viel Euro ist der jetzige Vorrat wert?",
        "Heute ist {d}. Welcher Tag ist morgen?",
        "Heute ist {d}. Welcher Wochentag ist in {n} Tagen?",
        "Heute ist {d}. Welcher Wochentag ist in {n} Tagen?",
        "Welcher Preis steht in der Zeile „{g}“?", "Welches Produkt hat den höchsten Preis?",
        "Wie groß ist die Summe von Preis mal Bestand über alle Zeilen?",
        ("Produkt", "Preis", "Bestand"),
        ("Montag", "Dienstag", "Mittwoch", "Donnerstag", "Freitag", "Samstag", "Sonntag"),
        ("Reis", "Zucker", "Mehl", "Salz", "Kaffee", "Käse", "Brot", "Honig"),
    ),
    "pt": Language(
        "Uma loja tem {a} kg de {g}.", "Ela vende {b} kg.", "Depois compra mais {c} kg.",
        "Quantos quilogramas sobram?", "Quantos quilogramas ela tem agora?",
        "Cada quilograma custa {p} euros. Quantos euros vale o que ela tem agora?",
        "Hoje é {d}. Que dia é amanhã?",
        "Hoje é {d}. Que dia da semana será daqui a {n} dias?",
        "Hoje é {d}. Que dia da semana será daqui a {n} dias?",
        "Que preço aparece na linha «{g}»?", "Que produto tem o preço mais alto?",
        "Qual é a soma de preço vezes estoque de todas as linhas?",
        ("Produto", "Preço", "Estoque"),
        ("segunda-feira", "terça-feira", "quarta-feira", "quinta-feira", "sexta-feira", "sábado",
         "domingo"),
        ("arroz", "açúcar", "farinha", "sal", "café", "queijo", "pão", "mel"),
    ),
    "ru": Language(
        "В магазине было {a} кг {g}.", "Продали {b} кг.", "Потом привезли ещё {c} кг.",
        "Сколько килограммов осталось?", "Сколько килограммов теперь в магазине?",
        "Цена одного килограмма: {p} руб. Сколько рублей стоит то, что теперь есть в магазине?",
        "Сегодня {d}. Какой день недели будет завтра?",
        "Сегодня {d}. Какой день недели будет через {n} дней?",
        "Сегодня {d}. Какой день недели будет через {n} дней?",
        "Какая цена указана в строке «{g}»?", "У какого товара самая высокая цена?",
        "Чему равна сумма произведений цены на остаток по всем строкам?",
        ("Товар", "Цена", "Остаток"),
        ("понедельник", "вторник", "среда", "четверг", "пятница", "суббота", "воскресенье"),
        ("рис", "сахар", "мука", "соль", "кофе", "сыр", "хлеб", "мёд"),
        ("риса", "сахара", "муки", "соли", "кофе", "сыра", "хлеба", "мёда"),
    ),
    "zh": Language(
        "一家商店有{a}公斤{g}。", "卖出了{b}公斤。", "后来又买进了{c}公斤。",
        "还剩多少公斤？", "现在有多少公斤？", "每公斤{p}元。现在的存货一共值多少元？",
        "今天是{d}。明天是星期几？", "今天是{d}。{n}天后是星期几？", "今天是{d}。{n}天后是星期几？",
        "“{g}”这一行的价格是多少？", "哪种商品的价格最高？", "所有行的价格乘以库存的总和是多少？",
        ("商品", "价格", "库存"),
        ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"),
        ("大米", "白糖", "面粉", "食盐", "咖啡", "奶酪", "面包", "蜂蜜"), gap="", comma="、",
    ),
    "ja": Language(
        "ある店に{g}が{a}キロあります。", "{b}キロ売れました。", "その後、{c}キロ仕入れました。",
        "残りは何キロですか。", "今は何キロありますか。",
        "1キロの値段は{p}円です。今ある分は全部で何円ですか。",
        "今日は{d}です。明日は何曜日ですか。", "今日は{d}です。{n}日後は何曜日ですか。",
        "今日は{d}です。{n}日後は何曜日ですか。", "「{g}」の行の価格はいくらですか。",
        "価格が一番高い商品はどれですか。", "すべての行の「価格×在庫」の合計はいくらですか。",
        ("商品", "価格", "在庫"),
        ("月曜日", "火曜日", "水曜日", "木曜日", "金曜日", "土曜日", "日曜日"),
        ("米", "砂糖", "小麦粉", "塩", "コーヒー", "チーズ", "パン", "蜂蜜"), gap="", comma="、",
    ),
    "ar": Language(
        "في متجر {a} كغ من {g}.", "باع المتجر {b} كغ.", "ثم اشترى {c} كغ أخرى.",
        "كم كيلوغرامًا بقي؟", "كم كيلوغرامًا في المتجر الآن؟",
        "سعر الكيلوغرام بالدولار هو {p}. كم ثمن الكمية الموجودة الآن بالدولار؟",
        "اليوم هو {d}. ما هو يوم غد؟", "اليوم هو {d}. أي يوم من الأسبوع سيكون بعد {n} أيام؟",
        "اليوم هو {d}. أي يوم من الأسبوع سيكون بعد {n} يومًا؟",
        "ما السعر المذكور في سطر «{g}»؟", "ما المنتج الأعلى سعرًا؟",
        "ما مجموع حاصل ضرب السعر في المخزون لجميع الأسطر؟",
        ("المنتج", "السعر", "المخزون"),
        ("الاثنين", "الثلاثاء", "الأربعاء", "الخميس", "الجمعة", "السبت", "الأحد"),
        ("الأرز", "السكر", "الدقيق", "الملح", "القهوة", "الجبن", "الخبز", "العسل"), comma="،",
    ),
}  # fmt: skip


# The languages of level 1, which small models have read most.
_LATIN = ("es", "fr", "de", "pt")


def make(level: int, rng: Random) -> Item:
    """Write a question of this level in one of the languages."""
    names = _LATIN if level == 1 else list(LANGUAGES)
    language = LANGUAGES[rng.choice(names)]
    return rng.choice(_MAKERS[level - 1])(language, rng)


def _numbers(question: str, right: int, step: int, rng: Random) -> Item:
    values = [str(value) for value in ladder(right, step, rng)]
    return choice_item(question, values[0], values[1:], rng)


def _table(count: int, language: Language, rng: Random) -> list[Row]:
    product, price, stock = language.headers
    prices = rng.sample(range(11, 100), count)
    names = rng.sample(language.names, count)
    return [
        {product: name, price: cost, stock: rng.randint(11, 60)}
        for name, cost in zip(names, prices, strict=True)
    ]


def _cell(language: Language, rng: Random) -> Item:
    table = _table(4, language, rng)
    product, price, _ = language.headers
    four = rng.sample(table, 4)
    question = language.cell.format(g=four[0][product])
    right, *wrong = (str(row[price]) for row in four)
    return choice_item(f"{written(table)}\n\n{question}", right, wrong, rng)


def _highest(language: Language, rng: Random) -> Item:
    table = _table(7, language, rng)
    product, price, _ = language.headers
    ordered = sorted(table, key=lambda row: -int(row[price]))
    names = [str(row[product]) for row in [ordered[0], *rng.sample(ordered[1:], 3)]]
    return choice_item(f"{written(table)}\n\n{language.highest}", names[0], names[1:], rng)


def _total(language: Language, rng: Random) -> Item:
    table = _table(6, language, rng)
    _, price, stock = language.headers
    right = sum(int(row[price]) * int(row[stock]) for row in table)
    return _numbers(f"{written(table)}\n\n{language.total}", right, rng.choice([1, 10, 50]), rng)


def _weekday(pattern: str, days: int, language: Language, rng: Random) -> Item:
    today = rng.randrange(7)
    right = language.weekdays[(today + days) % 7]
    wrong = rng.sample([day for day in language.weekdays if day != right], 3)
    question = pattern.format(d=language.weekdays[today], n=days)
    return choice_item(question, right, wrong, rng)


def _row(language: Language, rng: Random) -> Item:
    """The next weekday after some in a row, as a plain text."""
    first, count = rng.randrange(7), rng.randint(3, 6)
    right, *others = (language.weekdays[(first + count + place) % 7] for place in range(7))
    shown = [language.weekdays[(first + place) % 7] for place in range(count)]
    between = f"{language.comma}{language.gap}"
    wrong = rng.sample(others, 3)
    gap = language.gap
    text = between.join([*shown, ""]).rstrip()
    return continuation_item(text, f"{gap}{right}", [f"{gap}{day}" for day in wrong], rng)


def _tomorrow(language: Language, rng: Random) -> Item:
    return _weekday(language.tomorrow, 1, language, rng)


def _days(language: Language, rng: Random) -> Item:
    return _weekday(language.days, rng.randint(5, 10), language, rng)


def _many_days(language: Language, rng: Random) -> Item:
    days = rng.choice([25, 35, 45, 65, 75, 85]) + rng.randint(0, 5)
    return _weekday(language.many_days, days, language, rng)


def _story(steps: int, language: Language, rng: Random) -> Item:
    """One step: sold. Two: sold and bought. Three: sold, bought, and the price of what is there."""
    sold, rest, bought, price = (
        rng.randint(6, 40), rng.randint(6, 50), rng.randint(6, 40), rng.randint(3, 19),
    )  # fmt: skip
    if steps == 1:
        sentences, right = [language.has, language.sells, language.left], rest
    else:
        end = language.now if steps == 2 else language.price
        sentences = [language.has, language.sells, language.buys, end]
        right = (rest + bought) * (1 if steps == 2 else price)
    good = rng.choice(language.goods or language.names)
    text = language.gap.join(sentences)
    question = text.format(a=sold + rest, b=sold, c=bought, p=price, g=good)
    return _numbers(question, right, rng.choice([1, 2, 10] if steps < 3 else [price, 10]), rng)


_MAKERS: tuple[tuple[Callable[[Language, Random], Item], ...], ...] = (
    (_row,),
    (_tomorrow, _cell),
    (lambda language, rng: _story(1, language, rng), _highest),
    (lambda language, rng: _story(2, language, rng), _days),
    (lambda language, rng: _story(3, language, rng), _many_days),
    (_total,),
)
LANGUAGE_SECTION = LevelSection(
    "languages",
    "scored",
    (
        Level("in four languages: the next weekday of a row", 90),
        Level("in eight languages: tomorrow's weekday, a cell of a table", 190),
        Level("in eight languages: one step, the highest value of a table", 220),
        Level("in eight languages: two steps, the weekday in up to ten days", 170),
        Level("in eight languages: three steps, the weekday in up to 90 days", 220),
        Level("in eight languages: a sum of six products from a table", 260),
    ),
    make,
)
