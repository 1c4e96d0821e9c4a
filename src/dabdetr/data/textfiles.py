"""Text files in whatever encoding they were written."""

from __future__ import annotations

import re
from pathlib import Path

from dabdetr.data.findings import Findings
from dabdetr.files import open_regular, read_regular

HEAD = 1 << 16
MOST_TEXT = 4 << 30
"""Bytes of one annotation file."""


SYLLABLES = frozenset(
    "가고과구그기나남녀너노다대도동두드라람래량러레로리마머면모무물미바발배버보복부북비빵사산상새색서석선성세소손수술스시신아안야양어여연오"
    "옷우운원유의이인일자장전정제조주중지차청초추치카코콜크키타토트파포표품풍프피하학한할해호홍화황회"
)
"""Common syllables of Korean nouns."""
CHARACTERS = frozenset(
    "安按案八把百班半棒笔闭壁变冰饼玻彩层茶产长常超池厨处传瓷带单蛋弹第电吊定端段防飞封盖杆感钢缸格管罐柜锅焊护环换检键胶接节紧井镜局孔扣快矿栏缆类离粒链料裂林铃流漏炉码毛煤母"
    "白板包保杯北贝背本边标表别病不布部菜草叉车成橙吃虫出船窗床刺村大刀道灯低地点电店顶冬动斗豆短断队儿耳二发法房飞风服斧干高个工公狗"
    "瓜关光广果海好号合和河盒黑红狐后湖虎花画坏黄灰火货机鸡家架检件江角脚金筋金京鲸警酒桔具卡空口裤块筷筐蓝老梨李力路绿轮萝落马猫帽门米"
    "面苗母木鸟牛女盘旁炮盆瓶破苹葡漆旗气汽器枪桥青球裙缺人"
)
"""Common characters of Chinese nouns, of the rows that Korean has too."""


def read_text(path: str | Path, findings: Findings) -> str:
    """The text of a file; ValueError or OSError name it. A byte order mark is left out.

    What is not UTF-8 is taken for Windows-1251 where words of Cyrillic letters stand in it, for
    Shift JIS where Japanese syllables do, for Big5 or EUC-KR where its pairs of bytes tell, for
    Windows-1252 where bytes above 127 stand mostly beside small letters, and else for GB 18030
    (which holds GBK and GB 2312); it is counted.
    """
    content = read_bytes(path)
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16")):
        if content.startswith(mark):
            return _decoded(content, encoding, path)
    if content.startswith(b"\xfe\xff"):
        return _decoded(content, "utf-16", path)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        text, encoding = guess(content)
        note_encoding(findings, path, text, encoding)
        return text


def note_encoding(findings: Findings, path: str | Path, text: str, encoding: str) -> None:
    """Count a file that is not UTF-8; its first foreign word shows whether the guess is right."""
    word = re.search(r"[\w-]*[^\x00-\x7f][\w-]*", text)
    shown = f" (“{word.group()[:20]}”)" if word else ""
    findings.add("encoding", f"{path} as {encoding}{shown}")


def read_bytes(path: str | Path) -> bytes:
    """The content of a regular file; ValueError or FileNotFoundError name it."""
    try:
        if Path(path).stat().st_size > MOST_TEXT:
            raise ValueError(f"{path} has more than {MOST_TEXT >> 30} GiB; divide it")
        return read_regular(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no annotation file {path}; check the path") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; check it") from None


def head_of(path: Path) -> bytes:
    """The first bytes of a regular file, by which its form is known; none where it has none."""
    try:
        with open_regular(path) as file:
            return file.read(HEAD)
    except (OSError, ValueError):
        return b""


def guess(content: bytes) -> tuple[str, str]:
    """Text that is not UTF-8, and the encoding it was taken for."""
    some = content[:1_000_000]
    high = b"".join(re.findall(rb"[\x80-\xff]{2,}", some))
    words = b"".join(re.findall(rb"[\x80-\xff]{3,}", some))
    small = sum(byte >= 0xE0 for byte in words)  # small letters of Cyrillic, which fill words
    if small > 0.6 * len(high) and not re.search(rb"[\x80-\xa7\xa9-\xb7\xb9-\xbf]", high):
        return content.decode("cp1251", errors="replace"), "Windows-1251"
    kana = len(re.findall(rb"[\x82\x83].", some, re.DOTALL))
    if kana * 4 > len(high):
        try:
            return content.decode("cp932"), "Shift JIS"
        except UnicodeDecodeError:
            pass
    if (asian := _of_pairs(some)) is not None:
        encoding, told = asian
        try:
            return content.decode(encoding), told
        except UnicodeDecodeError:
            pass
    beside_letters = len(re.findall(rb"[a-z][\x80-\xff]+|[\x80-\xff]+[a-z]", some))
    if beside_letters * 2 <= len(re.findall(rb"[\x80-\xff]+", some)):
        try:
            return content.decode("gb18030"), "GB 18030"
        except UnicodeDecodeError:
            pass
    return content.decode("cp1252", errors="replace"), "Windows-1252"


def _of_pairs(some: bytes) -> tuple[str, str] | None:
    """Big5 or EUC-KR, where pairs of bytes are of them and not of GB 2312; else None.

    Big5 has pairs that end below 0x7f, which GB 2312 has not. EUC-KR's syllables have all GB 2312's
    pairs of a part of its rows, so common ones tell.
    """
    pairs = re.findall(rb"[\x81-\xfe][\x40-\xfe]", some)
    if len(pairs) < 2:
        return None
    big5 = all(0xA4 <= pair[0] <= 0xC9 and not 0x7F <= pair[1] <= 0xA0 for pair in pairs)
    low = [pair[1] < 0x7F for pair in pairs]
    if big5 and any(low) and not all(low):
        return "big5", "Big5"
    if not all(0xB0 <= pair[0] <= 0xC8 and pair[1] >= 0xA1 for pair in pairs):
        return None
    syllables = sum(pair.decode("euc_kr", "replace") in SYLLABLES for pair in pairs)
    characters = sum(pair.decode("gb2312", "replace") in CHARACTERS for pair in pairs)
    korean = syllables > characters and syllables * 2 >= len(pairs)
    return ("euc_kr", "EUC-KR") if korean else None


def _decoded(content: bytes, encoding: str, path: str | Path) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not readable text ({error.reason}); check it") from None
