"""Names and texts of the simulated shop, as unusual as what real users type."""

from random import Random

FIRST_NAMES = (
    "Анна", "Дмитрий", "Мария", "Ёлка", "Оля 🌸", "Александра-Виктория", "Ян", "Зульфия",
    "Sam O'Neil", "José", "Łukasz", "日向", "محمد", "נועה", "👨‍👩‍👧‍👦", "🇷🇺 Иван",
    "Robert'); DROP TABLE users;--", "<b>bold</b>", "null", "\\n", "  ", "%s {} $1",
)  # fmt: skip
LAST_NAMES = (
    None, None, "Иванова", "Петров-Водкин", "Щербак", "O’Brien", "Müller", "de la Cruz",
    "المصري", 'Smith "Jr."', "\u202eКузнецов", "🚀🚀🚀",
)  # fmt: skip
USERNAMES = (None, "anna", "d_petrov", "night_owl", "vpnfan", "Kot_Matroskin", "x", "user_name_32")
_TITLES = (
    "Не приходит оплата",
    "VPN не подключается 😢",
    "Вопрос про подписку «Стандарт»",
    "How do I renew?",
    "Верните деньги!!!",
    "не работает с утра\nиз-за чего?",
    "Роутер Keenetic & IKEv2: ошибка \\809",
    'Скидка "как у друга"',
    "مشكلة في الاتصال",
    "?",
)
_SENTENCES = (
    "Здравствуйте!",
    "Оплатила вчера, а подписка так и не продлилась 😔",
    "Пишет «Ошибка 503», что делать?",
    "Спасибо, всё заработало 👍🏽",
    "It's still not working on my iPhone 12.",
    "Попробуйте удалить профиль и добавить его ещё раз.",
    'В настройках написано: "not connected".',
    "C:\\Users\\Аня\\vpn.log",
    "Деньги вернём в течение 3–5 дней.",
    "1) перезагрузила\n2) переустановила\n3) не помогло",
    "شكرا جزيلا",
    '{"type": "ping"}',
    "SELECT * FROM tickets WHERE id = 1 OR '1'='1';",
    "\tтабуляция и неразрывный\u00a0пробел\u2028разделитель строк",
    "Ответьте, пожалуйста, до вечера 🙏",
    "e\u0301 и é — разные буквы",
)
DESCRIPTIONS = (
    None,
    "Пополнение баланса",
    "Подписка «Стандарт», 30 дней",
    "Бонус за друга 🎁",
    "Возврат: заказ №42",
    "It's a gift; don't ask",
)

#: The longest message that Telegram accepts.
LONGEST_MESSAGE = 4096


def title(rng: Random) -> str:
    """Return a ticket's title, at times as long as the column allows."""
    if rng.random() < 0.05:
        return ("Ж" * 250) + " 🙃" + "!" * 3
    return rng.choice(_TITLES)


def message(rng: Random) -> str:
    """Return a message, at times as long as Telegram allows."""
    if rng.random() < 0.05:
        return " ".join(rng.choice(_SENTENCES) for _ in range(250))[:LONGEST_MESSAGE]
    return " ".join(rng.choice(_SENTENCES) for _ in range(rng.randint(1, 4)))
