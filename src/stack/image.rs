//! A program out of an image's archive, as `docker save` writes it: a tar with a tar for each layer.

use crate::seam::disk::Options;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use tar::{Archive, Entry};

/// Largest program that is taken out: five times the largest there is.
const PROGRAM_MAX: u64 = 512 * 1024 * 1024;
/// Most entries of an archive, and of a layer, that are looked at: an image of a program has a few.
const ENTRIES_MAX: usize = 100_000;
/// Where a tar says that it is one, and how.
const MAGIC_AT: usize = 257;
const MAGIC: &[u8] = b"ustar";
/// A header.
const BLOCK: usize = 512;

/// Writes the file that `inside` (a path without a slash in front) is in the image to `to`, as a
/// program that only root may run. Layers are one above the other: the last that has it counts.
pub fn take_out(archive: &Path, inside: &str, to: &Path) -> io::Result<()> {
    let mut outer = Archive::new(File::open(archive)?);
    let mut found = false;
    for entry in outer.entries_with_seek()?.take(ENTRIES_MAX) {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let mut head = Vec::with_capacity(BLOCK);
        entry.by_ref().take(BLOCK as u64).read_to_end(&mut head)?;
        if head.get(MAGIC_AT..MAGIC_AT + MAGIC.len()) == Some(MAGIC) {
            found |= of_layer(head.chain(entry), inside, to)?;
        }
    }
    if found {
        return Ok(());
    }
    let why = format!("no layer of {} has a file {inside}", archive.display());
    Err(io::Error::new(io::ErrorKind::NotFound, why))
}

fn of_layer(layer: impl Read, inside: &str, to: &Path) -> io::Result<bool> {
    let mut found = false;
    for entry in Archive::new(layer).entries()?.take(ENTRIES_MAX) {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() && is(&entry, inside)? {
            write(&mut entry, to)?;
            found = true;
        }
    }
    Ok(found)
}

fn is(entry: &Entry<'_, impl Read>, inside: &str) -> io::Result<bool> {
    let path = entry.path()?;
    let path = path.strip_prefix("/").unwrap_or(&path);
    let path = path.strip_prefix("./").unwrap_or(path);
    Ok(path == Path::new(inside))
}

fn write(from: &mut impl Read, to: &Path) -> io::Result<()> {
    let mut file = Options::write().create(0o700).truncate().open(to)?;
    let copied = io::copy(&mut from.take(PROGRAM_MAX + 1), &mut file)?;
    if copied > PROGRAM_MAX {
        return Err(io::Error::other("a program of more than 512 MiB"));
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o755);
            builder
                .append_data(&mut header, path, *bytes)
                .expect("append");
        }
        builder.into_inner().expect("tar")
    }

    #[test]
    fn the_file_of_the_last_layer_that_has_it_is_taken() {
        let dir = tempfile::tempdir().expect("tempdir");
        let below = tar(&[("usr/local/bin/x", b"old"), ("etc/passwd", b"root")]);
        let above = tar(&[("usr/local/bin/x", b"new"), ("usr/local/bin/xy", b"other")]);
        let image = tar(&[
            ("manifest.json", b"[]"),
            ("1/layer.tar", &below),
            ("2/layer.tar", &above),
        ]);
        let (archive, to) = (dir.path().join("x.tar"), dir.path().join("program"));
        std::fs::write(&archive, image).expect("write");
        take_out(&archive, "usr/local/bin/x", &to).expect("it is there");
        assert_eq!(std::fs::read(&to).expect("read"), b"new");
        let mode = std::fs::metadata(&to).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let none = take_out(&archive, "usr/local/bin/y", &to).expect_err("is not there");
        assert!(none.to_string().contains("usr/local/bin/y"), "{none}");
    }
}
