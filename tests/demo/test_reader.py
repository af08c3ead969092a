import pytest

from demo.reader import MAX_DOCUMENTATION, MAX_SIGNATURE, Entity, read_source


def read(source, **options):
    return read_source(source, "m", **options)


def names(source, **options):
    return [entity.name for entity in read(source, **options)]


def test_a_module_comes_first_with_its_summary_and_what_follows():
    assert read('"""One line.\n\n    Two\n      three\n"""') == [
        Entity("module", "m", 1, "", "One line.", "Two\n  three")
    ]


def test_an_empty_source_is_a_module_that_says_nothing():
    assert read("") == [Entity("module", "m", 1)]


def test_a_function_has_signature_and_line():
    source = '\n\ndef f(a, /, b: int = 1, *c, d=None, **e) -> str:\n    """Do it."""'
    assert read(source)[1] == Entity(
        "function", "m.f", 3, "(a, /, b: int=1, *c, d=None, **e) -> str", "Do it.", ""
    )


def test_async_functions_and_methods_are_functions():
    source = "class C(Base, metaclass=M):\n    async def go(self): ...\n    class D: ..."
    assert [(entity.kind, entity.name, entity.signature) for entity in read(source)[1:]] == [
        ("class", "m.C", "(Base, metaclass=M)"),
        ("function", "m.C.go", "(self)"),
        ("class", "m.C.D", "()"),
    ]


def test_private_names_and_what_is_inside_functions_are_left_out():
    source = "def _f(): ...\nclass _C:\n    def f(self): ...\ndef g():\n    def inner(): ..."
    assert names(source) == ["m", "m.g"]


def test_definitions_under_if_and_try_are_found():
    source = (
        "if a:\n    def f(): ...\nelif b:\n    def g(): ...\nelse:\n    def h(): ...\n"
        "try:\n    def i(): ...\nexcept E:\n    def j(): ...\nfinally:\n    def k(): ..."
    )
    assert names(source) == ["m", *(f"m.{letter}" for letter in "fghijk")]


def test_of_several_definitions_with_one_name_the_first_counts():
    source = "class C:\n    @property\n    def x(self): 'Get.'\n    @x.setter\n    def x(self, v): 'Set.'"
    assert [(entity.name, entity.summary) for entity in read(source)[2:]] == [("m.C.x", "Get.")]


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (3, 3), (11, 11), (12, 11)])
def test_the_number_of_entities_is_bounded(limit, expected):
    source = "\n".join(f"def f{number}(): ..." for number in range(10))
    assert len(names(source, max_entities=limit)) == expected


def test_long_texts_are_cut():
    source = f'def f(a="{"x" * 2 * MAX_SIGNATURE}"):\n    """First.\n\n    {"y" * 2 * MAX_DOCUMENTATION}"""'
    entity = read(source)[1]
    assert (len(entity.signature), len(entity.documentation)) == (MAX_SIGNATURE, MAX_DOCUMENTATION)


def test_what_postgresql_cannot_keep_is_replaced():
    entity = read(r'"""a\0b \ud800c"""')[0]
    assert entity.summary == "ab ?c"


@pytest.mark.parametrize("source", ["def f(:", "x = '", "a\0b"])
def test_a_source_that_does_not_parse_is_an_error(source):
    with pytest.raises((SyntaxError, ValueError)):
        read(source)
