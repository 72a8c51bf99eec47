//! Reading a message's content.

use crate::layout::{HEAD, content_length};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

/// A message's content from its first byte to its last, and nothing of what stands around it in the file.
///
/// A file that ends too soon is an error ([`ErrorKind::UnexpectedEof`]), so that half a message never passes for a whole one.
#[derive(Debug)]
pub struct ContentReader {
    file: File,
    left: u64,
}

impl ContentReader {
    /// Of a message's file.
    pub(crate) fn within(mut file: File) -> io::Result<Self> {
        let left = content_length(&file)?;
        file.seek(SeekFrom::Start(HEAD as u64))?;
        Ok(Self { file, left })
    }

    /// Of a file that is nothing but content.
    pub(crate) fn all_of(file: File) -> io::Result<Self> {
        let left = file.metadata()?.len();
        Ok(Self { file, left })
    }
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}
