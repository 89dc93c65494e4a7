//! A pool of threads that compress pieces of a disk, each by itself, and a sink that gets the packed pieces in their
//! order. Does not depend on the source of the pieces, nor on the compression.
//!
//! The output depends only on the pieces, not on the number or speed of threads. Memory is bounded: the number of
//! pieces in progress is limited.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::num::NonZero;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use deaddrop_core::secret::Wiped;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::container::Compression;
use crate::container::compression::Packed;

/// Maximum number of threads. More would wait for the decoder.
const MOST_THREADS: usize = 8;

/// The receiver of the frames.
pub(super) trait Sink {
    /// Takes the frame of the next piece, which has `size` bytes of the disk.
    ///
    /// # Errors
    /// If writing it fails.
    fn take(&mut self, frame: Frame<'_>, size: usize) -> io::Result<()>;
}

/// One piece's frame.
pub(super) enum Frame<'a> {
    /// The packed piece.
    New(&'a Packed),
    /// The sink has it already.
    Known,
}

/// A piece to compress, and a buffer for its frame.
struct Job {
    number: u64,
    piece: Wiped,
    frame: Packed,
}

/// A frame in its buffer, or the error; and the piece's buffer, for reuse.
struct Done {
    number: u64,
    piece: Wiped,
    frame: io::Result<Packed>,
}

/// An entry of the sink's input, in order.
enum Slot {
    /// A piece of this many bytes, whose frame the sink has.
    Known(usize),
    /// This many zero bytes.
    Zeros(usize),
    /// A job, by its number; and the size of its piece.
    Job(u64, usize),
}

/// The threads, and the pieces in progress.
pub(super) struct Pool<S> {
    sink: S,
    compression: Compression,
    /// `None` at the end: dropping it ends the threads.
    jobs: Option<Sender<Job>>,
    done: Receiver<Done>,
    threads: Vec<JoinHandle<()>>,
    /// Number of the next job.
    next: u64,
    slots: VecDeque<Slot>,
    /// Number of jobs in `slots`.
    on_their_way: usize,
    /// Frames that were finished early.
    early: BTreeMap<u64, io::Result<Packed>>,
    pieces: Vec<Wiped>,
    frames: Vec<Packed>,
    /// Frames of zeros, by their length.
    zeros: BTreeMap<usize, Packed>,
}

impl<S: Sink> Pool<S> {
    /// Starts the threads.
    ///
    /// # Errors
    /// If no thread can be started.
    pub(super) fn new(compression: Compression, sink: S) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (results, done) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::new();
        for _ in 0..workers(compression) {
            let (queue, results) = (Arc::clone(&queue), results.clone());
            let started =
                thread::Builder::new().name("deaddrop-pack".into()).spawn(move || work(compression, &queue, &results));
            match started {
                Ok(thread) => threads.push(thread),
                // Fewer threads are sufficient.
                Err(_) if !threads.is_empty() => break,
                Err(e) => return Err(e),
            }
        }
        Ok(Self {
            sink,
            compression,
            jobs: Some(jobs),
            done,
            threads,
            next: 0,
            slots: VecDeque::new(),
            on_their_way: 0,
            early: BTreeMap::new(),
            pieces: Vec::new(),
            frames: Vec::new(),
            zeros: BTreeMap::new(),
        })
    }

    /// A buffer of `size` bytes for a piece; its content is unspecified.
    pub(super) fn buffer(&mut self, size: usize) -> Wiped {
        let Some(mut buffer) = self.pieces.pop() else { return Wiped::zeros(size) };
        buffer.resize(size, 0);
        buffer
    }

    /// Returns a buffer that is not needed.
    pub(super) fn return_buffer(&mut self, buffer: Wiped) {
        self.pieces.push(buffer);
    }

    /// Compresses the next piece. Blocks while too many are in progress.
    ///
    /// # Errors
    /// The error of the sink or of the compression.
    pub(super) fn compress(&mut self, piece: Wiped) -> io::Result<()> {
        // One per thread, and one ready for the first thread that becomes idle.
        while self.on_their_way > self.threads.len() {
            self.settle_one()?;
        }
        self.slots.push_back(Slot::Job(self.next, piece.len()));
        let job = Job { number: self.next, piece, frame: self.frames.pop().unwrap_or_default() };
        self.next = self.next.saturating_add(1);
        self.on_their_way = self.on_their_way.saturating_add(1);
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
        sent.and_then(Result::ok).ok_or_else(gone)
    }

    /// The next piece is `size` zero bytes.
    ///
    /// # Errors
    /// As [`Pool::compress`].
    pub(super) fn zeros(&mut self, size: usize) -> io::Result<()> {
        self.slots.push_back(Slot::Zeros(size));
        self.settle_ready()
    }

    /// The frame of the next piece, of `size` bytes, is one that the sink has.
    ///
    /// # Errors
    /// As [`Pool::compress`].
    pub(super) fn known(&mut self, size: usize) -> io::Result<()> {
        self.slots.push_back(Slot::Known(size));
        self.settle_ready()
    }

    /// Waits for all pieces in progress; the sink has everything then.
    ///
    /// # Errors
    /// As [`Pool::compress`].
    pub(super) fn finish(mut self) -> io::Result<S> {
        while !self.slots.is_empty() {
            self.settle_one()?;
        }
        self.jobs = None;
        self.threads.drain(..).try_for_each(|thread| thread.join().map_err(|_| gone()))?;
        Ok(self.sink)
    }

    /// Passes finished frames to the sink, without waiting for a thread.
    fn settle_ready(&mut self) -> io::Result<()> {
        loop {
            match self.slots.front() {
                None => return Ok(()),
                Some(Slot::Job(number, _)) if !self.early.contains_key(number) => match self.done.try_recv() {
                    Ok(done) => self.keep(done),
                    Err(_) => return Ok(()),
                },
                Some(_) => self.settle_one()?,
            }
        }
    }

    /// Passes the next frame to the sink, and waits until there is one.
    fn settle_one(&mut self) -> io::Result<()> {
        match self.slots.pop_front() {
            None => Ok(()),
            Some(Slot::Known(size)) => self.sink.take(Frame::Known, size),
            Some(Slot::Zeros(size)) => {
                let frame = match self.zeros.entry(size) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let mut frame = Packed::default();
                        self.compression.codec().encoder()?.encode(&Wiped::zeros(size), &mut frame)?;
                        new.insert(frame)
                    }
                };
                self.sink.take(Frame::New(frame), size)
            }
            Some(Slot::Job(number, size)) => {
                let frame = loop {
                    if let Some(frame) = self.early.remove(&number) {
                        break frame?;
                    }
                    let done = self.done.recv().map_err(|_| gone())?;
                    self.keep(done);
                };
                self.on_their_way = self.on_their_way.saturating_sub(1);
                self.sink.take(Frame::New(&frame), size)?;
                self.frames.push(frame);
                Ok(())
            }
        }
    }

    fn keep(&mut self, done: Done) {
        self.pieces.push(done.piece);
        self.early.insert(done.number, done.frame);
    }
}

/// One thread: takes jobs until the channel is closed.
fn work(compression: Compression, queue: &Mutex<Receiver<Job>>, results: &Sender<Done>) {
    let mut encoder = compression.codec().encoder();
    loop {
        // Locked while waiting: the other threads wait for the lock.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { number, piece, mut frame }) = job else { return };
        let made = match &mut encoder {
            Ok(encoder) => encoder.encode(&piece, &mut frame),
            Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
        };
        if results.send(Done { number, piece, frame: made.map(|()| frame) }).is_err() {
            // The pool was dropped.
            return;
        }
    }
}

fn gone() -> io::Error {
    io::Error::other("a thread that compresses has failed")
}

/// One thread per core, limited by the address space: each has a piece, its frame, the encoder's tables, a stack, and
/// an arena of the C library. The decoder and what is ours takes the rest.
fn workers(compression: Compression) -> usize {
    const EACH: u64 = 128 << 20;
    const OURS: u64 = 200 << 20;
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let each = compression.codec().encoder_memory().saturating_add(EACH);
    let room = match getrlimit(Resource::RLIMIT_AS) {
        Ok((limit, _)) if limit != RLIM_INFINITY => limit.saturating_sub(OURS) / each,
        _ => u64::MAX,
    };
    cores.min(MOST_THREADS).min(usize::try_from(room).unwrap_or(usize::MAX)).max(1)
}
