//! Reading a message's content.

use crate::MessageId;
use crate::layout::{HEAD, checksum, content_head};
use crc32fast::Hasher;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

/// A message's content from its first byte to its last, and nothing of what stands around it in the file.
///
/// A file that ends too soon is an error ([`ErrorKind::UnexpectedEof`]), and so is one whose content is not what came in ([`ErrorKind::InvalidData`], in the place of
/// its last bytes): neither half a message nor a damaged one ever passes for a whole one.
#[derive(Debug)]
pub struct ContentReader {
    file: File,
    left: u64,
    /// Of what was read, and what that of all has to be. A message of the version before has none.
    checksum: Option<(Hasher, u32)>,
}

impl ContentReader {
    /// Of the file of this message.
    pub(crate) fn within(id: &MessageId, mut file: File) -> io::Result<Self> {
        let (left, whole) = content_head(&file)?;
        file.seek(SeekFrom::Start(HEAD as u64))?;
        Ok(Self { file, left, checksum: Some((checksum(id), whole)) })
    }

    /// Of a file that is nothing but content.
    pub(crate) fn all_of(file: File) -> io::Result<Self> {
        let left = file.metadata()?.len();
        Ok(Self { file, left, checksum: None })
    }

    /// At its end, each time that it is asked: an error must not be followed by an end that passes for a good one.
    fn verdict(&self) -> io::Result<()> {
        match &self.checksum {
            Some((hasher, whole)) if self.left == 0 && hasher.clone().finalize() != *whole => {
                Err(io::Error::new(ErrorKind::InvalidData, "the content is not what came in"))
            }
            _ => Ok(()),
        }
    }
}

impl Read for ContentReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        if most == 0 {
            return self.verdict().map(|()| 0);
        }
        let read = self.file.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        if let Some((hasher, _)) = &mut self.checksum {
            hasher.update(&buffer[..read]);
        }
        self.verdict().map(|()| read)
    }
}

#[cfg(test)]
mod tests {
    use crate::{Queue, envelope};
    use std::fs;
    use std::io::{ErrorKind, Read};

    #[test]
    fn damaged_content_never_passes_for_whole() {
        let volume = tempfile::tempdir().unwrap();
        let queue = Queue::open(volume.path()).unwrap();
        let mut incoming = queue.begin(1).unwrap();
        incoming.write(&[b'x'; 9_000]).unwrap();
        let message = incoming.commit(envelope::sample(1)).unwrap();
        // It has been tried, so that no scan looks at its content again.
        queue.update(&message).unwrap();
        let read = || {
            let mut bytes = Vec::new();
            queue.content(&message.id).unwrap().read_to_end(&mut bytes).map(|_| bytes)
        };
        assert_eq!(read().unwrap(), [b'x'; 9_000]);
        let path = volume.path().join(format!("{}.mail", message.id));
        let mut file = fs::read(&path).unwrap();
        file[4_096..8_192].fill(0);
        fs::write(&path, file).unwrap();
        assert_eq!(read().unwrap_err().kind(), ErrorKind::InvalidData);
        let mut content = queue.content(&message.id).unwrap();
        let mut all = vec![0; 9_000];
        for _ in 0..3 {
            assert_eq!(content.read(&mut all).unwrap_err().kind(), ErrorKind::InvalidData, "not an end either");
        }
    }
}
