//! The client's side of the socket.

use std::{
    io,
    path::{Path, PathBuf},
};

use serde::de::DeserializeOwned;
use tokio::{
    io::BufReader,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::{
    ApiError, Reply, Request, SOCKET_NAME, Update,
    line::{self, Line},
};

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens in this data folder.
    #[error("no node is running in {data}: start one with `ioex node --data {data}`", data = .data.display())]
    NotRunning {
        /// The data folder.
        data: PathBuf,
    },
    /// The socket is there, but this user may not open it, or it broke.
    #[error("the node's local socket failed")]
    Io(#[from] io::Error),
    /// The node was killed or stopped before it had answered.
    #[error("the node ended before it had answered")]
    Ended,
    /// The request cannot be written down: it has a path that is no text, or is too long.
    #[error("the node cannot be asked for this: {0}")]
    Request(String),
    /// The node answered with an error.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The node answered something that this program does not understand.
    #[error("the node's answer makes no sense ({0}): are the node and this program the same version?")]
    Protocol(String),
}

/// A running node, as seen from its data folder. Each request has its own connection.
#[derive(Clone, Debug)]
pub struct Client {
    data: PathBuf,
}

impl Client {
    /// Finds the node that runs in `data`.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] when there is none.
    pub async fn connect(data: &Path) -> Result<Self, ClientError> {
        let client = Self { data: data.to_owned() };
        client.open().await?;
        Ok(client)
    }

    /// The node's data folder as given to [`connect`](Self::connect).
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The number of the node's process, as far as this one can see it.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub async fn process(&self) -> Result<Option<u32>, ClientError> {
        let pid = self.open().await?.peer_cred()?.pid();
        Ok(pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0))
    }

    /// Sends `request` and waits for its final value, skipping updates.
    ///
    /// # Errors
    /// [`ClientError`]; what the node refused is [`ClientError::Api`].
    pub async fn call<T: DeserializeOwned>(&self, request: Request) -> Result<T, ClientError> {
        self.stream(request).await?.finish().await
    }

    /// Sends `request`; its updates come from the result. Dropping that ends the request.
    ///
    /// # Errors
    /// When the request cannot be written down, or the node cannot be reached.
    pub async fn stream(&self, request: Request) -> Result<Updates, ClientError> {
        let line = line::encode(&request).map_err(|e| ClientError::Request(e.to_string()))?;
        let (reader, mut writer) = self.open().await?.into_split();
        match line::write(&mut writer, &line).await {
            // The node may have closed because of this very request; its reason can be read.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            other => other?,
        }
        Ok(Updates { reader: BufReader::new(reader), _writer: writer, begun: Vec::new(), end: None })
    }

    async fn open(&self) -> Result<UnixStream, ClientError> {
        let path = self.data.join(SOCKET_NAME);
        line::check_socket_path(&path)?;
        UnixStream::connect(path).await.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory => {
                ClientError::NotRunning { data: self.data.clone() }
            }
            _ => ClientError::Io(e),
        })
    }
}

/// The answer to one request: updates, then a final value.
#[derive(Debug)]
pub struct Updates {
    reader: BufReader<OwnedReadHalf>,
    // Held because the node takes a closed sending half for a client that is gone.
    _writer: OwnedWriteHalf,
    // The part of the next line that came so far.
    begun: Vec<u8>,
    end: Option<serde_json::Value>,
}

impl Updates {
    /// The next update; `None` when only the final value is left. Dropping the future loses
    /// nothing, so it may stand in a `select!`.
    ///
    /// # Errors
    /// [`ClientError::Api`] when the request failed, [`ClientError::Ended`] when the node is gone.
    pub async fn next(&mut self) -> Result<Option<Update>, ClientError> {
        if self.end.is_some() {
            return Ok(None);
        }
        let bytes = match line::read(&mut self.reader, &mut self.begun).await {
            Ok(Line::Whole(bytes)) => bytes,
            Ok(Line::TooLong) => return Err(ClientError::Protocol("a line is too long".to_owned())),
            Ok(Line::End) => return Err(ClientError::Ended),
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(ClientError::Ended),
            Err(e) => return Err(e.into()),
        };
        match serde_json::from_slice(&bytes).map_err(|e| ClientError::Protocol(e.to_string()))? {
            Reply::Update(update) => Ok(Some(update)),
            Reply::Failed(error) => Err(error.into()),
            Reply::Done(value) => {
                self.end = Some(value);
                Ok(None)
            }
        }
    }

    /// The final value; updates that come before it are skipped.
    ///
    /// # Errors
    /// [`ClientError::Api`] when the request failed, [`ClientError::Ended`] when the node is gone.
    pub async fn finish<T: DeserializeOwned>(mut self) -> Result<T, ClientError> {
        while self.next().await?.is_some() {}
        let value = self.end.unwrap_or_default();
        serde_json::from_value(value).map_err(|e| ClientError::Protocol(e.to_string()))
    }
}
