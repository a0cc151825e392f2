//! Packages made by hand, as far as they are read; those of the distributions' own tools are with who unpacks them.

use std::io::Cursor;

use super::*;

/// What a package is made of.
pub(crate) struct Made<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: &'a str,
    pub(crate) arch: &'a str,
    pub(crate) files: &'a [(&'a str, &'a [u8])],
}

fn made<'a>(name: &'a str, version: &'a str, arch: &'a str) -> Made<'a> {
    Made {
        name,
        version,
        arch,
        files: &[("./opt/pf9/agent/x", b"x")],
    }
}

fn ar_member(name: &str, body: &[u8], into: &mut Vec<u8>) {
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

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, body) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(0o755);
        tar.append_data(&mut header, path, *body).expect("tar");
    }
    tar.into_inner().expect("tar")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("zstd")
}

/// As dpkg-deb writes it.
pub(crate) fn deb_of(made: &Made<'_>) -> Vec<u8> {
    let Made {
        name,
        version,
        arch,
        files,
    } = made;
    let text =
        format!("Package: {name}\nVersion: {version}\nArchitecture: {arch}\nDescription: x\n");
    let mut out = deb::MAGIC.to_vec();
    ar_member("debian-binary", b"2.0\n", &mut out);
    let control = zstd(&tar_of(&[("./control", text.as_bytes())]));
    ar_member("control.tar.zst", &control, &mut out);
    ar_member("data.tar.zst", &zstd(&tar_of(files)), &mut out);
    out
}

/// As rpmbuild writes it.
pub(crate) fn rpm_of(made: &Made<'_>) -> Vec<u8> {
    let (version, release) = made.version.rsplit_once('-').unwrap_or((made.version, "1"));
    let mut out = rpm::LEAD_MAGIC.to_vec();
    out.resize(96, 0);
    out.extend(rpm_header(&[(269, "abc")]));
    out.resize(out.len().next_multiple_of(8), 0);
    let texts = [
        (1000, made.name),
        (1001, version),
        (1002, release),
        (1022, made.arch),
    ];
    out.extend(rpm_header(&texts));
    let mut cpio = Vec::new();
    for (path, body) in made.files.iter().chain(&[("TRAILER!!!", b"".as_slice())]) {
        let mode = 0o100_755;
        let mut head = format!("070701{:08x}{mode:08x}", 1);
        for number in [0, 0, 1, 0, body.len(), 0, 0, 0, 0, path.len() + 1, 0] {
            head += &format!("{number:08x}");
        }
        cpio.extend(head.into_bytes());
        cpio.extend(path.as_bytes());
        cpio.push(0);
        cpio.resize(cpio.len().next_multiple_of(4), 0);
        cpio.extend(*body);
        cpio.resize(cpio.len().next_multiple_of(4), 0);
    }
    out.extend(zstd(&cpio));
    out
}

fn rpm_header(texts: &[(u32, &str)]) -> Vec<u8> {
    const STRING: u32 = 6;
    let (mut index, mut data) = (Vec::new(), Vec::new());
    for (tag, text) in texts {
        for number in [*tag, STRING, data.len() as u32, 1] {
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
    out
}

fn said(bytes: Vec<u8>) -> Result<(PackageFormat, String, &'static str), String> {
    match read(&mut Cursor::new(bytes)) {
        Ok(label) => Ok((label.format, label.version.to_string(), label.arch)),
        Err(e) => Err(crate::telemetry::chain(&e)),
    }
}

#[test]
fn both_formats_say_what_they_are() {
    let of = |made: &Made<'_>| (said(deb_of(made)), said(rpm_of(made)));
    for (version, is) in [("0.2.0-1", "0.2.0"), ("0.3.0~rc1-2", "0.3.0-rc1")] {
        for (words, arch) in [
            (["amd64", "x86_64"], "amd64"),
            (["arm64", "aarch64"], "arm64"),
        ] {
            for word in words {
                let (deb, rpm) = of(&made(PACKAGE, version, word));
                assert_eq!(deb, Ok((PackageFormat::Deb, is.into(), arch)));
                assert_eq!(rpm, Ok((PackageFormat::Rpm, is.into(), arch)));
            }
        }
    }
}

#[test]
fn what_is_not_ours_is_refused_in_words() {
    let why = |bytes: Vec<u8>| said(bytes).expect_err("refused");
    assert!(why(b"#!/bin/sh\nexit 0\n".to_vec()).contains("neither"));
    assert!(why(b"x".to_vec()).contains("cannot be read"));
    for (name, version, arch, words) in [
        ("vim", "0.2.0-1", "amd64", "\"vim\""),
        (PACKAGE, "0.2.0-1", "riscv64", "riscv64"),
        (PACKAGE, "1:0.2.0-1", "amd64", "version"),
        (PACKAGE, "0.2-1", "amd64", "version"),
        (PACKAGE, "0.2.0+x-1", "amd64", "build"),
        (PACKAGE, "", "amd64", "version"),
        ("", "0.2.0-1", "amd64", "package"),
    ] {
        let of = made(name, version, arch);
        for bytes in [deb_of(&of), rpm_of(&of)] {
            assert!(
                why(bytes.clone()).contains(words),
                "{words}: {}",
                why(bytes)
            );
        }
    }
}

/// Its control data packed in another way are none to a node, so they are none to the plane.
#[test]
fn control_data_are_packed_in_the_one_way() {
    let mut out = deb::MAGIC.to_vec();
    let control = format!("Package: {PACKAGE}\nVersion: 0.2.0-1\nArchitecture: amd64\n");
    ar_member(
        "control.tar",
        &tar_of(&[("./control", control.as_bytes())]),
        &mut out,
    );
    ar_member("data.tar.zst", &zstd(&tar_of(&[])), &mut out);
    said(out).expect_err("refused");
}

#[test]
fn what_is_cut_off_or_lies_about_its_lengths_is_refused() {
    let of = made(PACKAGE, "0.2.0-1", "amd64");
    for whole in [deb_of(&of), rpm_of(&of)] {
        // zstd's own checksum, or a filling byte, may be all that is missing.
        for end in 0..whole.len() - 8 {
            let cut = whole.get(..end).expect("in it").to_vec();
            assert!(said(cut).is_err(), "{end} of {}", whole.len());
        }
    }
    let mut lies = rpm_of(&of);
    lies.get_mut(96 + 8..96 + 12).expect("there").fill(0xff);
    assert!(said(lies).expect_err("refused").contains("too large"));
    let mut lies = deb_of(&of);
    let at = 8 + 60 + 4 + 48;
    let size = lies.get_mut(at..at + 10).expect("there");
    size.copy_from_slice(b"9999999999");
    said(lies).expect_err("refused");
}

/// Who unpacks one is bounded, whatever it says.
#[test]
fn what_unpacks_to_too_much_or_too_many_is_refused() {
    let name = vec!["./x".to_owned(); ENTRIES_MAX + 1];
    let files: Vec<(&str, &[u8])> = name.iter().map(|n| (n.as_str(), b"".as_slice())).collect();
    let of = Made {
        files: &files,
        ..made(PACKAGE, "0.2.0-1", "amd64")
    };
    for bytes in [deb_of(&of), rpm_of(&of)] {
        assert!(said(bytes).expect_err("refused").contains("too many"));
    }
}

proptest::proptest! {
    /// No bytes make it panic, or take more than it may.
    #[test]
    fn no_bytes_are_too_odd(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let deb_like = [deb::MAGIC.as_slice(), &bytes].concat();
        drop(said(deb_like));
        let mut lead = rpm::LEAD_MAGIC.to_vec();
        lead.resize(96, 0);
        let header = [lead.as_slice(), &[0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0], &bytes].concat();
        drop(said(header));
    }
}
