//! `docs/protocol.md` and the code agree: another engineer can build a peer from the page alone.
//!
//! Tables are read from the page and compared both ways, so a row without a check fails like a number that differs.
//! Numbers in sentences are searched for as the code would write them.

use bytes::{BufMut, Bytes, BytesMut};
use pf9_tunnel::mux::{
    INSTANCE_HEADER, SESSION_HEADER, SLOT_HEADER, SLOTS_MAX, SUBPROTOCOL, TUNNEL_PATH,
};
use pf9_tunnel::wire::limits::*;
use pf9_tunnel::wire::{Class, Code, Frame, Hello, Malformed, Meta, Open, StreamId};

const PAGE: &str = include_str!("../../../docs/protocol.md");

/// Cells of the rows of the table whose first column has this heading.
fn table(first_head: &str) -> Vec<Vec<&'static str>> {
    let cells = |line: &'static str| -> Vec<&'static str> {
        let inner = line.trim().trim_start_matches('|').trim_end_matches('|');
        inner.split('|').map(str::trim).collect()
    };
    let rows: Vec<_> = PAGE
        .lines()
        .skip_while(|line| !line.starts_with(&format!("| {first_head} |")))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(cells)
        .collect();
    assert!(!rows.is_empty(), "the page has no table of {first_head:?}");
    rows
}

/// `32 768`: as the page writes numbers.
fn spaced(n: impl TryInto<u64>) -> String {
    let n: u64 = n.try_into().ok().expect("a number");
    match n {
        0..1000 => n.to_string(),
        _ => format!("{} {:03}", spaced(n / 1000), n % 1000),
    }
}

/// `64 KiB`, `2 MiB`.
fn sized(n: impl TryInto<u64>) -> String {
    let n: u64 = n.try_into().ok().expect("a number");
    match n {
        _ if n.is_multiple_of(1 << 20) => format!("{} MiB", n >> 20),
        _ if n.is_multiple_of(1 << 10) => format!("{} KiB", n >> 10),
        _ => format!("{n} bytes"),
    }
}

/// Every number of a cell, thousands joined and units applied.
fn numbers(cell: &str) -> Vec<u64> {
    let mut found: Vec<u64> = Vec::new();
    let mut joins = false;
    for word in cell.split_whitespace() {
        let digits = word.trim_end_matches(',');
        match (digits.parse::<u64>(), word, found.last_mut()) {
            (Ok(n), _, Some(last)) if joins && digits.len() == 3 => *last = *last * 1000 + n,
            (Ok(n), _, _) => found.push(n),
            (Err(_), "KiB", Some(last)) => *last <<= 10,
            (Err(_), "MiB", Some(last)) => *last <<= 20,
            (Err(_), _, _) => {}
        }
        joins = digits == word && digits.parse::<u64>().is_ok();
    }
    found
}

#[test]
fn numbers_are_read_as_people_read_them() {
    let cases: &[(&str, &[u64])] = &[
        ("32 768", &[32_768]),
        ("64 MiB", &[64 << 20]),
        ("8 entries, 128 bytes a key or value", &[8, 128]),
        ("2, and 8 that drain", &[2, 8]),
        ("600 s", &[600]),
    ];
    for (cell, want) in cases {
        assert_eq!(&numbers(cell), want, "{cell}");
    }
    assert_eq!(
        (spaced(33_800u64), spaced(64u64)),
        ("33 800".into(), "64".into())
    );
}

/// One frame of each kind, with every variable-length field empty.
fn frames() -> [(&'static str, Frame); 10] {
    let (stream, none) = (StreamId(2), String::new);
    let hello = Hello {
        version: VERSION,
        initial_window: INITIAL_WINDOW,
        max_streams: STREAMS_MAX,
        capabilities: Vec::new(),
    };
    let open = Open {
        service: none(),
        class: Class::Bulk,
        meta: Meta::new(),
    };
    [
        ("HELLO", Frame::Hello(hello)),
        ("OPEN", Frame::Open(stream, open)),
        ("ACCEPT", Frame::Accept(stream)),
        ("DATA", Frame::Data(stream, Bytes::new(), true)),
        ("CREDIT", Frame::Credit(stream, 1)),
        ("RESET", Frame::Reset(stream, Code::Broken, 1, none())),
        ("PING", Frame::Ping(1)),
        ("PONG", Frame::Pong(1)),
        ("GOAWAY", Frame::GoAway(stream, Code::Replaced, 1, none())),
        ("RETURN", Frame::Return(stream, 2, 1)),
    ]
}

/// Bytes of a payload as the page describes it, with everything of variable length empty.
fn least_bytes(payload: &str) -> usize {
    let fields = payload
        .split(" · ")
        .filter(|field| !field.starts_with("n ×"));
    let width = |word: &str| match word.trim_matches(|c: char| !c.is_ascii_alphanumeric()) {
        "u8" | "text8" => 1,
        "u16" => 2,
        "u32" => 4,
        "u64" => 8,
        _ => 0,
    };
    fields.flat_map(str::split_whitespace).map(width).sum()
}

/// `0x0a` of a cell.
fn kinds(cell: &str) -> Vec<u8> {
    let digits = cell.split("0x").skip(1).map(|rest| rest.get(..2));
    digits
        .map(|two| u8::from_str_radix(two.expect("two digits"), 16).expect("hexadecimal"))
        .collect()
}

#[test]
fn frames_are_those_of_the_page() {
    let rows = table("kind");
    let mut said = frames().into_iter();
    for row in &rows {
        let [kind, name, stream, payload] = row[..] else {
            panic!("a row of four cells: {row:?}");
        };
        if let [first, last] = kinds(kind)[..] {
            ranges_are(first..=last, name);
            continue;
        }
        let (known, frame) = said.next().expect("no kind that the code does not have");
        assert_eq!(name, known);
        let bytes = frame.encode();
        assert_eq!(kinds(kind), [bytes[0]], "{name}: its number");
        assert_eq!(stream == "0", bytes[4..8] == [0; 4], "{name}: its stream");
        let flags: u8 = payload.contains("flag `0x01` = FIN").into();
        assert_eq!(bytes[1], flags, "{name}: its flags");
        assert_eq!(
            bytes.len() - HEADER,
            least_bytes(payload),
            "{name}: {payload}"
        );
        assert_eq!(Frame::decode(bytes), Ok(frame), "{name}");
    }
    assert_eq!(said.next(), None, "kinds that the page does not have");
    let covered: usize = rows
        .iter()
        .map(|row| match kinds(row[0])[..] {
            [first, last] => usize::from(last - first) + 1,
            _ => 1,
        })
        .sum();
    // All but 0x00, which has no meaning.
    assert_eq!(covered, 255, "each kind stands in one row");
}

/// How the code decodes kinds without a name.
fn ranges_are(range: std::ops::RangeInclusive<u8>, name: &str) {
    for kind in range {
        let mut message = BytesMut::new();
        message.put_slice(&[kind, 0, 0, 0]);
        message.put_u32(1);
        let want = match name {
            "reserved" => Err(Malformed::UnknownKind(kind)),
            "extensions" => Ok(Frame::Skipped(kind)),
            other => panic!("kinds called {other:?}"),
        };
        assert_eq!(Frame::decode(message.freeze()), want, "{kind:#04x}");
    }
}

#[test]
fn codes_are_those_of_the_page() {
    let page: Vec<_> = table("code")
        .into_iter()
        .map(|row| (row[0].parse::<u16>().expect("a number"), row[1]))
        .collect();
    let code: Vec<_> = Code::ALL.iter().map(|c| (c.number(), c.word())).collect();
    assert_eq!(page, code);
}

#[test]
fn limits_are_those_of_the_page() {
    let usizes = |all: &[usize]| -> Vec<u64> {
        all.iter()
            .map(|n| u64::try_from(*n).expect("small"))
            .collect()
    };
    let known: &[(&str, Vec<u64>)] = &[
        ("DATA payload", usizes(&[DATA_MAX])),
        (
            "streams opened by the peer, at once",
            vec![STREAMS_MAX.into()],
        ),
        ("OPENs waiting for an answer", usizes(&[BACKLOG_MAX])),
        (
            "refusals and resets waiting to be read by the peer",
            usizes(&[REFUSALS_MAX]),
        ),
        (
            "connection's memory for received data",
            vec![CONNECTION_WINDOW],
        ),
        (
            "a window, once either side said farewell",
            vec![LEAVING_WINDOW],
        ),
        (
            "blocks kept alive by received payloads",
            usizes(&[PINNED_MAX]),
        ),
        ("bytes queued to send, per stream", usizes(&[SEND_BUFFER])),
        ("bytes queued to send, all streams", usizes(&[SEND_TOTAL])),
        (
            "last bytes of a stream nobody holds any more",
            vec![LAST_BYTES_TIMEOUT.as_secs()],
        ),
        ("service name", usizes(&[SERVICE_MAX])),
        ("metadata", usizes(&[META_MAX, META_TEXT_MAX])),
        ("capabilities", usizes(&[CAPABILITIES_MAX, CAPABILITY_MAX])),
        ("words", usizes(&[WORDS_MAX])),
        ("come back after", vec![COME_BACK_MAX.as_secs()]),
        // How many may drain is the plane's own matter.
        ("sessions of a host", vec![SLOTS_MAX.into()]),
    ];
    let rows = table("what");
    for row in &rows {
        let found = known.iter().find(|(what, _)| *what == row[0]);
        let (what, code) = found.unwrap_or_else(|| panic!("no constant is known for {:?}", row[0]));
        assert!(
            numbers(row[1]).starts_with(code),
            "{what}: {} is not {code:?}",
            row[1]
        );
    }
    for (what, _) in known {
        assert!(rows.iter().any(|row| row[0] == *what), "no row of {what:?}");
    }
}

#[test]
fn numbers_in_sentences_are_those_of_the_code() {
    let page = PAGE.split_whitespace().collect::<Vec<_>>().join(" ");
    let (window, streams) = (spaced(INITIAL_WINDOW), spaced(STREAMS_MAX));
    let four = ["none", "one", "two", "three", "four", "five", "six"];
    let run = four[usize::try_from(INTERACTIVE_RUN).expect("few")];
    let sentences = [
        format!("The tunnel protocol, version {VERSION}"),
        format!("`GET {TUNNEL_PATH}`, subprotocol `{SUBPROTOCOL}`"),
        format!(
            "{} bytes (`{HEADER} + {} + {}`)",
            spaced(MESSAGE_MAX),
            spaced(DATA_MAX),
            spaced(MESSAGE_MAX - HEADER - DATA_MAX),
        ),
        format!("its initial window is taken to be {window} and its max streams {streams}"),
        format!("an initial window below {window}"),
        format!("every interval ({} s by default", PING_INTERVAL.as_secs()),
        format!(
            "*Come back after* is honoured up to {} s",
            COME_BACK_MAX.as_secs()
        ),
        format!("not answered within {} s", OPEN_TIMEOUT.as_secs()),
        format!("With the default cap of {}", sized(CONNECTION_WINDOW)),
        format!(
            "{} a turn, in frames of up to {}",
            sized(QUANTUM),
            sized(DATA_MAX),
        ),
        format!("after {run} interactive turns in a row"),
        format!("at most about {} in its own buffers", sized(SEND_BUFFER)),
        format!("beyond that {} per stream", sized(SEND_FLOOR)),
    ];
    for sentence in &sentences {
        assert!(page.contains(sentence), "the page does not say: {sentence}");
    }
    for header in [INSTANCE_HEADER, SESSION_HEADER, SLOT_HEADER] {
        assert!(
            page.to_lowercase().contains(&format!("`{header}`")),
            "{header}"
        );
    }
}
