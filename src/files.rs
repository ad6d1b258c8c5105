//! Files that are written whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Writes a file beside where it is to be, under its name and `.part`, has it on the disk, and
/// renames it then. What fails or is interrupted leaves the file as it was.
///
/// # Errors
/// Those of `write` and of the file system, after which there is no `.part`.
pub(crate) fn write_whole(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut writer = BufWriter::new(File::create(&part)?);
    let written = write(&mut writer).and_then(|()| writer.flush()).and_then(|()| writer.get_ref().sync_all());
    drop(writer);
    let renamed = written.and_then(|()| fs::rename(&part, path));
    if renamed.is_err() {
        // The first error is the one to tell.
        let _ = fs::remove_file(&part);
    }
    renamed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_the_file_as_it_was() {
        let folder = std::env::temp_dir().join(format!("prflash-files-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file.txt");
        write_whole(&path, |writer| writer.write_all(b"first")).unwrap();
        let failed = write_whole(&path, |writer| {
            writer.write_all(b"second")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.unwrap_err().to_string(), "no more");
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        write_whole(&path, |writer| writer.write_all(b"second")).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        fs::remove_dir_all(&folder).unwrap();
    }
}
