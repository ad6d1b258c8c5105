//! Files that are written whole or not at all.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use tempfile::Builder;

/// Writes a file, and the folders above it where they are missing. An interrupted run leaves the
/// file as it was: the text is written beside it first, and then takes its name.
///
/// # Errors
/// Names the file: it, or a folder above it, can't be written.
pub fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<()> {
    write_with(path, |writer| Ok(writer.write_all(contents.as_ref())?))
}

/// The same for contents that come bit by bit; an error of theirs leaves the file as it was, too.
///
/// # Errors
/// Those of `contents`; names the file: it, or a folder above it, can't be written.
pub fn write_with<T>(path: &Path, contents: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    whole(path, contents).with_context(|| format!("writing {}", path.display()))
}

fn whole<T>(path: &Path, contents: impl FnOnce(&mut dyn Write) -> Result<T>) -> Result<T> {
    // A bare name lies in the current folder; a temporary file needs its folder by name.
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder)?;
    let mut builder = Builder::new();
    #[cfg(unix)]
    {
        // A temporary file is for its owner's eyes; this one is to be as any other, which the
        // process's umask sees to.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder)?;
    let made = contents(&mut file)?;
    // The whole error would keep the file until it is dropped itself.
    file.persist(path).map_err(|error| error.error)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_folders_are_made() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/file.txt");
        write(&path, "first").unwrap();
        write(&path, "second, which is longer").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "second, which is longer");
        // Nothing is left beside it.
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_written_is_named_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        let error = write(&path, "text").unwrap_err();
        assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_any_file() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let [ours, plain] = ["ours", "plain"].map(|name| folder.path().join(name));
        write(&ours, "").unwrap();
        std::fs::write(&plain, "").unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&ours), mode(&plain));
    }
}
