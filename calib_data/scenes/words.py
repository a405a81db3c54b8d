# ruff: noqa: SIM905 - a word list reads best as words
"""The words that scenes are made of: colours, places, things to sell, Chinese words, names."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 40, 40),
    "orange": (244, 140, 6),
    "yellow": (250, 215, 40),
    "green": (50, 160, 70),
    "blue": (40, 90, 210),
    "purple": (125, 50, 170),
    "pink": (245, 140, 185),
    "brown": (120, 75, 40),
    "black": (25, 25, 28),
    "white": (245, 245, 243),
    "gray": (135, 138, 142),
}

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")

# row-major names of the nine places of a picture
PLACES = (
    "top left", "top", "top right",
    "left", "middle", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")

FOODS = """tea coffee latte mocha espresso cocoa milk juice cola water lemonade smoothie soup salad bread
toast bagel muffin scone waffle pancake donut cookie brownie cake pie tart pudding yogurt cheese
butter honey jam egg omelette bacon sausage ham chicken beef pork lamb fish salmon tuna shrimp
crab rice noodles pasta pizza burger sandwich wrap taco burrito curry steak fries chips nuts
olives beans corn potato tomato onion carrot pepper apple banana orange grape mango peach pear
plum cherry melon lemon berry kiwi sushi ramen dumpling tofu kebab falafel hummus gelato sorbet
cider wine beer soda""".split()

FOOD_STYLES = "hot iced small large green black fried grilled fresh sweet spicy double mini house baked smoked".split()

SHOP_FIRST = """Blue Golden Happy Green Little Corner Old Royal Lucky Sunny City River Silver Red Grand Quick
Urban Maple Ocean Garden Star Moon North Park Villa""".split()
SHOP_LAST = """Cafe Market Bakery Store Diner Deli Bistro Kitchen Grill Bar House Shop Mart Foods Pizza Books
Pharmacy Hotel""".split()

SIGN_WORDS = """open closed exit entrance push pull stop slow parking office toilet ticket platform gate lift
stairs danger caution private staff only sale free today new fresh welcome please wait here keep
left right out in no smoking entry way fire hose school road street bridge station museum library
hospital airport beach pool camp""".split()

CHINESE = """牛肉面 炒饭 米饭 鸡蛋 豆腐 水饺 包子 馒头 豆浆 油条 火锅 烤鸭 红烧肉 鱼香茄子 酸辣汤
青菜 白菜 土豆 番茄 黄瓜 苹果 香蕉 西瓜 葡萄 橙汁 绿茶 红茶 花茶 咖啡 牛奶 啤酒 白酒
可乐 雪糕 蛋糕 面包 小笼包 凉皮 春卷 粽子 月饼 汤圆 羊肉串 宫保鸡丁 麻婆豆腐 回锅肉
糖醋鱼 清蒸虾 炒青椒 南瓜粥 玉米汁 入口 出口 营业中 休息 停车场 洗手间 电梯 楼梯 安全
小心 地滑 禁止吸烟 请勿打扰 欢迎光临 今日特价 新品上市 买一送一 大减价 图书馆 医院 学校
银行 酒店 机场 车站 地铁 公园 超市 书店 药房 餐厅 北京 上海 广州 中山路 人民路 东门
西门 南京 长江 黄河 春天 夏天 秋天 冬天 早餐 午餐 晚餐 开门 关门 时间 电话 地址
老王面馆 小张水果 幸福花园 阳光酒家 四川饭店 海洋世界 明月茶楼 天天超市""".split()
CHINESE_TOTAL = "合计"
CHINESE_CHARACTERS = "".join(sorted(set("".join(CHINESE))))

SYLLABLES = """ba be bi bo bu ca co cu da de di do du fa fe fi fo ga go gu ha he hi ho ja jo ka ke ki ko la le li
lo lu ma me mi mo mu na ne ni no nu pa pe pi po pu ra re ri ro ru sa se si so su ta te ti to tu va
ve vi vo wa we wi xa ya yo za ze zo""".split()
CODAS = ("", "", "", "n", "r", "s", "t", "l", "m", "x", "ck", "nd")

# label -> labels that are not wrong for it: they are neither shown beside it nor used against it
ALSO_CALLED: dict[str, tuple[str, ...]] = {
    "bird": (
        "eagle",
        "dove",
        "owl",
        "duck",
        "swan",
        "parrot",
        "peacock",
        "flamingo",
        "penguin",
        "chicken",
        "rooster",
        "turkey",
        "goose",
        "phoenix",
    ),
    "duck": ("goose", "swan"),
    "chicken": ("rooster", "turkey"),
    "dog": ("poodle", "wolf"),
    "bear": ("polar bear", "panda", "koala"),
    "cow": ("ox", "bison"),
    "ewe": ("ram", "goat"),
    "horse": ("unicorn", "donkey"),
    "rat": ("mouse", "hamster"),
    "pig": ("boar",),
    "fish": ("shark", "blowfish", "whale", "dolphin"),
    "whale": ("dolphin",),
    "bug": ("ant", "beetle", "cricket", "cockroach", "fly", "mosquito"),
    "train": ("locomotive", "tram", "monorail"),
    "tram": ("trolleybus", "monorail"),
    "bus": ("minibus", "trolleybus"),
    "automobile": ("taxi", "police car"),
    "ship": ("ferry", "speedboat", "sailboat"),
    "house": ("houses", "hut", "hotel"),
    "hotel": ("hospital", "school", "bank", "factory"),
    "volcano": ("mountain",),
    "sunrise": ("sunset", "cityscape"),
    "glasses": ("sunglasses", "goggles"),
    "notebook": ("ledger", "books"),
    "newspaper": ("scroll", "placard"),
    "bowling": ("baseball", "basketball", "volleyball", "softball", "soccer ball"),
    "baseball": ("softball",),
    "pen": ("pencil", "crayon", "paintbrush"),
    "dagger": ("screwdriver",),
    "blossom": ("sunflower", "hibiscus", "rose", "lotus", "tulip", "hyacinth"),
    "shrimp": ("lobster", "crab"),
    "octopus": ("squid",),
    "lemon": ("lime", "mango", "tangerine"),
}
