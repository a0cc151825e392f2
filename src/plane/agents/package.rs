//! What a package of the agent says it is: read out of the file itself, so that a wrong one is refused before a
//! host hears of it. Every length that the file names is bounded.

use std::io::{Read, Seek, SeekFrom};

use semver::Version;

use crate::model::{PackageFormat, agent_version_fault};

/// The package's name, in both formats.
const NAME: &str = "pf9-hostagent";
/// What a .deb begins with: it is an `ar` archive.
const AR: &[u8; 8] = b"!<arch>\n";
const AR_HEADER: usize = 60;
/// The lead of an .rpm: 96 bytes that begin so. All that matters stands in the two headers after it.
const RPM: &[u8; 4] = &[0xed, 0xab, 0xee, 0xdb];
const RPM_LEAD: u64 = 96;
const RPM_HEADER: &[u8; 3] = &[0x8e, 0xad, 0xe8];
/// Tags of the second header, and the type of a text.
const RPM_NAME: u32 = 1000;
const RPM_VERSION: u32 = 1001;
const RPM_ARCH: u32 = 1022;
const RPM_STRING: u32 = 6;
/// Most of a package that is read to know it: control data are some kilobytes.
const META_MAX: u64 = 4 * 1024 * 1024;
/// The control file of a .deb.
const CONTROL_MAX: u64 = 64 * 1024;
/// Entries of an .rpm's header; ours has about a hundred.
const RPM_TAGS_MAX: u32 = 4096;

/// What a package is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) format: PackageFormat,
    pub(super) version: Version,
    /// In Debian's words.
    pub(super) arch: &'static str,
}

/// Reads it; else why it is none of ours.
pub(super) fn read(file: &mut (impl Read + Seek)) -> Result<Label, String> {
    let mut magic = [0; 8];
    at(file, 0, &mut magic)?;
    let (format, [name, version, arch]) = if &magic == AR {
        (PackageFormat::Deb, deb(file)?)
    } else if magic.starts_with(RPM) {
        (PackageFormat::Rpm, rpm(file)?)
    } else {
        return Err("it is neither a .deb nor an .rpm".into());
    };
    if name != NAME {
        return Err(format!("it is package {}, not {NAME}", short(&name)));
    }
    let arch = match arch.as_str() {
        "amd64" | "x86_64" => "amd64",
        "arm64" | "aarch64" => "arm64",
        other => return Err(format!("it is for {}, no machine of ours", short(other))),
    };
    Ok(Label {
        format,
        version: version_of(&version)?,
        arch,
    })
}

/// The version that the programs in it say of themselves: a package's is that, and its own revision behind.
fn version_of(text: &str) -> Result<Version, String> {
    let (ours, _) = text.rsplit_once('-').unwrap_or((text, ""));
    // Both package managers write what comes before a release so.
    let ours = ours.replacen('~', "-", 1);
    let version: Version = ours
        .parse()
        .map_err(|e| format!("its version {} cannot be read: {e}", short(text)))?;
    match agent_version_fault(&version) {
        None => Ok(version),
        Some(why) => Err(why),
    }
}

fn short(text: &str) -> String {
    format!("{:?}", text.chars().take(80).collect::<String>())
}

fn at(file: &mut (impl Read + Seek), from: u64, into: &mut [u8]) -> Result<(), String> {
    file.seek(SeekFrom::Start(from))
        .and_then(|_| file.read_exact(into))
        .map_err(|e| format!("it cannot be read: {e}"))
}

/// Name, version, architecture of a .deb: the second member of the archive.
fn deb(file: &mut (impl Read + Seek)) -> Result<[String; 3], String> {
    let mut from = AR.len() as u64;
    // debian-binary comes first.
    for _ in 0..2 {
        let mut header = [0; AR_HEADER];
        at(file, from, &mut header)?;
        let field = |range: std::ops::Range<usize>| {
            let text = header.get(range).and_then(|b| std::str::from_utf8(b).ok());
            text.unwrap_or_default().trim().to_owned()
        };
        let name = field(0..16);
        let size: u64 = field(48..58)
            .parse()
            .map_err(|_| "its archive has no sizes".to_owned())?;
        let body = from + AR_HEADER as u64;
        if let Some(packed) = name.trim_end_matches('/').strip_prefix("control.tar") {
            if size > META_MAX {
                return Err(format!("its control data have {size} bytes"));
            }
            file.seek(SeekFrom::Start(body))
                .map_err(|e| format!("it cannot be read: {e}"))?;
            return control(file.take(size), packed);
        }
        from = body.saturating_add(size).saturating_add(size % 2);
    }
    Err("it has no control data".into())
}

fn control(packed: impl Read, how: &str) -> Result<[String; 3], String> {
    let broken = |e: std::io::Error| format!("its control data cannot be read: {e}");
    let tar: Box<dyn Read + '_> = match how {
        "" => Box::new(packed),
        ".zst" => Box::new(zstd::stream::read::Decoder::new(packed).map_err(broken)?),
        other => {
            return Err(format!(
                "its control data are packed as {}, not as .zst",
                short(other)
            ));
        }
    };
    let mut tar = tar::Archive::new(tar.take(META_MAX));
    for entry in tar.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let is_control = entry.path().is_ok_and(|p| {
            p == std::path::Path::new("./control") || p == std::path::Path::new("control")
        });
        if is_control {
            let mut text = String::new();
            let read = entry.take(CONTROL_MAX).read_to_string(&mut text);
            read.map_err(broken)?;
            let field = |name: &str| {
                let line = text
                    .lines()
                    .find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
                let line = line.map(|l| l.trim().to_owned());
                line.ok_or_else(|| format!("its control file has no {name}"))
            };
            return Ok([field("Package")?, field("Version")?, field("Architecture")?]);
        }
    }
    Err("it has no control file".into())
}

/// The same of an .rpm: its second header, behind the one of signatures.
fn rpm(file: &mut (impl Read + Seek)) -> Result<[String; 3], String> {
    let (_, _, signatures) = rpm_header(file, RPM_LEAD)?;
    let begin = signatures.next_multiple_of(8);
    let (tags, data, end) = rpm_header(file, begin)?;
    if end - begin > META_MAX {
        return Err("its header is too large".into());
    }
    let mut text = vec![0; usize::try_from(end - data).unwrap_or_default()];
    at(file, data, &mut text)?;
    let field = |tag: u32, name: &str| {
        let found = tags.iter().find(|t| (t.tag, t.kind) == (tag, RPM_STRING));
        let from = found.and_then(|t| text.get(usize::try_from(t.offset).ok()?..));
        let word = from.and_then(|bytes| bytes.split(|b| *b == 0).next());
        let word = word.and_then(|w| std::str::from_utf8(w).ok());
        word.map(str::to_owned)
            .ok_or_else(|| format!("its header has no {name}"))
    };
    Ok([
        field(RPM_NAME, "name")?,
        field(RPM_VERSION, "version")?,
        field(RPM_ARCH, "architecture")?,
    ])
}

/// An entry of a header: which, of what type, and where in its data.
struct Tag {
    tag: u32,
    kind: u32,
    offset: u32,
}

/// The entries of the header that begins there, where its data begin, and where it ends.
fn rpm_header(file: &mut (impl Read + Seek), from: u64) -> Result<(Vec<Tag>, u64, u64), String> {
    let mut head = [0; 16];
    at(file, from, &mut head)?;
    let number = |bytes: &[u8], at: usize| {
        let four = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        u32::from_be_bytes(four.unwrap_or_default())
    };
    let (count, size) = (number(&head, 8), number(&head, 12));
    if !head.starts_with(RPM_HEADER) || count > RPM_TAGS_MAX || u64::from(size) > META_MAX {
        return Err("it has no header of an .rpm".into());
    }
    let mut index = vec![0; 16 * usize::try_from(count).unwrap_or_default()];
    at(file, from + 16, &mut index)?;
    let tags = index.chunks_exact(16).map(|entry| Tag {
        tag: number(entry, 0),
        kind: number(entry, 4),
        offset: number(entry, 8),
    });
    let data = from + 16 + 16 * u64::from(count);
    Ok((tags.collect(), data, data + u64::from(size)))
}

#[cfg(test)]
pub(in crate::plane) mod tests {
    use std::io::Cursor;

    use super::*;

    fn member(name: &str, body: &[u8], into: &mut Vec<u8>) {
        let head = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
            0,
            0,
            0,
            100_644,
            body.len()
        );
        into.extend(head.into_bytes());
        into.extend(body);
        into.extend(vec![b'\n'; body.len() % 2]);
    }

    /// A package as dpkg-deb writes it.
    pub(in crate::plane) fn deb_of(
        name: &str,
        version: &str,
        arch: &str,
        content: &[u8],
    ) -> Vec<u8> {
        let text =
            format!("Package: {name}\nVersion: {version}\nArchitecture: {arch}\nDescription: x\n");
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, "./control", text.as_bytes())
            .expect("tar");
        let tar = tar.into_inner().expect("tar");
        let mut out = AR.to_vec();
        member("debian-binary", b"2.0\n", &mut out);
        let packed = zstd::encode_all(tar.as_slice(), 3).expect("zstd");
        member("control.tar.zst", &packed, &mut out);
        member("data.tar.zst", content, &mut out);
        out
    }

    /// A package as rpmbuild writes it, as far as it is read.
    fn rpm_of(name: &str, version: &str, arch: &str) -> Vec<u8> {
        let header = |texts: &[(u32, &str)], pad: bool| {
            let (mut index, mut data) = (Vec::new(), Vec::new());
            for (tag, text) in texts {
                for number in [*tag, RPM_STRING, data.len() as u32, 1] {
                    index.extend(number.to_be_bytes());
                }
                data.extend(text.as_bytes());
                data.push(0);
            }
            let mut out = vec![0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0];
            out.extend((texts.len() as u32).to_be_bytes());
            out.extend((data.len() as u32).to_be_bytes());
            out.extend(index);
            out.extend(data);
            if pad {
                out.resize(out.len().next_multiple_of(8), 0);
            }
            out
        };
        let mut out = RPM.to_vec();
        out.resize(96, 0);
        out.extend(header(&[(269, "abc")], true));
        let texts = [
            (RPM_NAME, name),
            (RPM_VERSION, version),
            (1002, "1"),
            (RPM_ARCH, arch),
        ];
        out.extend(header(&texts, false));
        out.extend(b"payload");
        out
    }

    fn label(bytes: Vec<u8>) -> Result<(PackageFormat, String, &'static str), String> {
        read(&mut Cursor::new(bytes)).map(|l| (l.format, l.version.to_string(), l.arch))
    }

    #[test]
    fn both_formats_say_what_they_are() {
        let deb = label(deb_of(NAME, "0.2.0-1", "amd64", b"x"));
        assert_eq!(deb, Ok((PackageFormat::Deb, "0.2.0".into(), "amd64")));
        let deb = label(deb_of(NAME, "0.3.0~rc1-2", "arm64", b""));
        assert_eq!(deb, Ok((PackageFormat::Deb, "0.3.0-rc1".into(), "arm64")));
        let rpm = label(rpm_of(NAME, "0.2.0", "x86_64"));
        assert_eq!(rpm, Ok((PackageFormat::Rpm, "0.2.0".into(), "amd64")));
        let rpm = label(rpm_of(NAME, "0.2.0~rc1", "aarch64"));
        assert_eq!(rpm, Ok((PackageFormat::Rpm, "0.2.0-rc1".into(), "arm64")));
    }

    #[test]
    fn what_is_not_ours_is_refused_in_words() {
        let why = |bytes: Vec<u8>| label(bytes).expect_err("refused");
        assert!(why(b"#!/bin/sh\nexit 0\n".to_vec()).contains("neither"));
        assert!(why(b"x".to_vec()).contains("cannot be read"));
        assert!(why(deb_of("vim", "0.2.0-1", "amd64", b"")).contains("\"vim\""));
        assert!(why(rpm_of("vim", "0.2.0", "x86_64")).contains("\"vim\""));
        assert!(why(deb_of(NAME, "0.2.0-1", "riscv64", b"")).contains("riscv64"));
        assert!(why(deb_of(NAME, "1:0.2.0-1", "amd64", b"")).contains("version"));
        assert!(why(deb_of(NAME, "0.2-1", "amd64", b"")).contains("version"));
        assert!(why(deb_of(NAME, "0.2.0+x-1", "amd64", b"")).contains("build"));
    }

    #[test]
    fn what_is_cut_off_or_lies_about_its_lengths_is_refused() {
        for whole in [
            deb_of(NAME, "0.2.0-1", "amd64", b"x"),
            rpm_of(NAME, "0.2.0", "x86_64"),
        ] {
            // The payload is not looked at.
            let needed = whole.len() - 128;
            for end in 0..needed {
                let cut = whole.get(..end).expect("in it").to_vec();
                assert!(label(cut).is_err(), "{end} of {}", whole.len());
            }
        }
        let mut lies = rpm_of(NAME, "0.2.0", "x86_64");
        lies.get_mut(96 + 8..96 + 12).expect("there").fill(0xff);
        assert!(label(lies).expect_err("refused").contains("header"));
        let mut lies = deb_of(NAME, "0.2.0-1", "amd64", b"x");
        let at = 8 + 60 + 4 + 48;
        lies.get_mut(at..at + 10)
            .expect("there")
            .copy_from_slice(b"9999999999");
        assert!(label(lies).expect_err("refused").contains("bytes"));
    }
}
