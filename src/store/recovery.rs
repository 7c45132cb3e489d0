//! What opening does: checks the format, makes the tree, takes uploads up where they are safe.
//!
//! Costs O(uploads): no blob and no tag is looked at. Everything here can be cut by a crash at
//! any step and finishes at the next start.

use std::io;
use std::path::Path;

use super::StoreError;
use super::catalog::{Catalog, Upload};
use super::checkpoint::{self, SESSION_FILE_BYTES};
use super::layout::{FORMAT, Layout, OCI_LAYOUT, UploadId};
use crate::io::{File, Io, Open};
use crate::oci::Algorithm;

const SMALL_FILE_BYTES_MAX: usize = 4096;

pub(super) async fn open<I: Io>(
    io: &I,
    layout: &Layout,
    catalog: &Catalog,
) -> Result<(), StoreError> {
    make_tree(io, layout).await?;
    let format = format!("{FORMAT}\n");
    let found = ensure_file(io, layout, &layout.format(), format.as_bytes()).await?;
    check_format(&layout.format(), &found)?;
    let found = ensure_file(io, layout, &layout.oci_layout(), OCI_LAYOUT.as_bytes()).await?;
    check_oci_layout(&layout.oci_layout(), &found)?;
    recover_uploads(io, layout, catalog).await
}

async fn make_tree<I: Io>(io: &I, layout: &Layout) -> Result<(), StoreError> {
    let mut folders = vec![layout.all_blobs()];
    folders.extend(Algorithm::ALL.map(|algorithm| layout.blobs(algorithm)));
    folders.extend([layout.repositories(), layout.uploads(), layout.state()]);
    for folder in &folders {
        io.make_folder(folder)
            .await
            .map_err(StoreError::io("make folder", folder))?;
    }
    for folder in [&layout.all_blobs(), layout.root()] {
        io.sync_folder(folder)
            .await
            .map_err(StoreError::io("sync folder", folder))?;
    }
    Ok(())
}

/// The file's content; one that is missing is written first.
async fn ensure_file<I: Io>(
    io: &I,
    layout: &Layout,
    path: &Path,
    content: &[u8],
) -> Result<Vec<u8>, StoreError> {
    match io.read(path, SMALL_FILE_BYTES_MAX).await {
        Ok(found) => return Ok(found),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(StoreError::io("read", path)(error)),
    }
    let mut random = [0; 16];
    io.fill_random(&mut random);
    let unnamed = layout.unnamed(UploadId::from_random(random));
    io.write_new(&unnamed, content.to_vec())
        .await
        .map_err(StoreError::io("write", &unnamed))?;
    io.rename(&unnamed, path)
        .await
        .map_err(StoreError::io("rename to", path))?;
    let folder = path
        .parent()
        .expect("every path of the layout lies in a folder");
    io.sync_folder(folder)
        .await
        .map_err(StoreError::io("sync folder", folder))?;
    Ok(content.to_vec())
}

fn check_format(path: &Path, found: &[u8]) -> Result<(), StoreError> {
    let text = String::from_utf8_lossy(found);
    let problem = match text.trim().parse::<u32>() {
        Ok(FORMAT) => return Ok(()),
        Ok(other) => format!(
            "the folder has format {other}, this program knows format {FORMAT}: use the version \
             of the program that wrote it, or a newer one"
        ),
        Err(_) => format!("it should hold the number of the folder's format, {FORMAT}"),
    };
    let source = io::Error::new(io::ErrorKind::InvalidData, problem);
    Err(StoreError::Io {
        operation: "read",
        path: path.to_owned(),
        source,
    })
}

fn check_oci_layout(path: &Path, found: &[u8]) -> Result<(), StoreError> {
    let known: serde_json::Value = serde_json::from_str(OCI_LAYOUT).expect("it is JSON");
    let version = |value: &serde_json::Value| value.get("imageLayoutVersion").cloned();
    let found = serde_json::from_slice(found)
        .ok()
        .as_ref()
        .and_then(version);
    if found == version(&known) {
        return Ok(());
    }
    let problem = format!("another image layout than {OCI_LAYOUT}");
    let source = io::Error::new(io::ErrorKind::InvalidData, problem);
    Err(StoreError::Io {
        operation: "read",
        path: path.to_owned(),
        source,
    })
}

async fn recover_uploads<I: Io>(
    io: &I,
    layout: &Layout,
    catalog: &Catalog,
) -> Result<(), StoreError> {
    let folder = layout.uploads();
    let entries = io
        .list(&folder)
        .await
        .map_err(StoreError::io("list", &folder))?;
    for entry in entries {
        let Some(id) = UploadId::parse(&entry.name).filter(|_| entry.is_folder) else {
            if entry.name.starts_with('.') && !entry.is_folder {
                let path = folder.join(&entry.name);
                io.remove(&path)
                    .await
                    .map_err(StoreError::io("remove", &path))?;
            }
            continue;
        };
        match recover_upload(io, layout, id).await? {
            Some(upload) => catalog.add_upload(id, upload),
            None => remove_files(io, layout, id).await?,
        }
    }
    sync_folder(io, &folder).await
}

async fn sync_folder<I: Io>(io: &I, folder: &Path) -> Result<(), StoreError> {
    io.sync_folder(folder)
        .await
        .map_err(StoreError::io("sync folder", folder))
}

/// Cuts the upload's data to what its newest checkpoint counts; `None` if nothing can be kept.
async fn recover_upload<I: Io>(
    io: &I,
    layout: &Layout,
    id: UploadId,
) -> Result<Option<Upload>, StoreError> {
    let path = layout.upload_session(id);
    let content = match io.read(&path, SESSION_FILE_BYTES).await {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read", &path)(error)),
    };
    let Some((repository, checkpoint)) = checkpoint::read_session_file(&content) else {
        return Ok(None);
    };
    if checkpoint.offset_bytes > 0 {
        // A killed process may have left it written and not synced, under names not synced; from
        // now on clients are told this offset.
        let session = io
            .open(&path, Open::Write)
            .await
            .map_err(StoreError::io("open", &path))?;
        session
            .sync()
            .await
            .map_err(StoreError::io("sync", &path))?;
        sync_folder(io, &layout.upload(id)).await?;
    }
    let data = layout.upload_data(id);
    let Some(found) = io
        .stat(&data)
        .await
        .map_err(StoreError::io("stat", &data))?
    else {
        // Never begun; or finished and renamed into `blobs/`.
        let never_begun = checkpoint.offset_bytes == 0;
        return Ok(never_begun.then(|| Upload::new(repository, checkpoint, io.now())));
    };
    // A read-only file was finished, and the blob of that name may be this very file: a rename
    // whose folders were not both synced may leave it under both. It is never cut.
    if found.is_read_only || found.size_bytes < checkpoint.offset_bytes {
        return Ok(None);
    }
    if found.size_bytes > checkpoint.offset_bytes {
        let file = io
            .open(&data, Open::Write)
            .await
            .map_err(StoreError::io("open", &data))?;
        let cut = file.set_len(checkpoint.offset_bytes).await;
        cut.map_err(StoreError::io("truncate", &data))?;
    }
    Ok(Some(Upload::new(repository, checkpoint, io.now())))
}

/// Removes what an upload left, in any state of completeness.
pub(super) async fn remove_files<I: Io>(
    io: &I,
    layout: &Layout,
    id: UploadId,
) -> Result<(), StoreError> {
    // The session file goes first: data without it is never mistaken for an upload.
    for path in [layout.upload_session(id), layout.upload_data(id)] {
        match io.remove(&path).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            done => done.map_err(StoreError::io("remove", &path))?,
        }
    }
    let folder = layout.upload(id);
    match io.remove_folder(&folder).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map_err(StoreError::io("remove folder", &folder)),
    }
}
