//! Caches decoded chunks of all arrays of a process, up to a number of bytes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Array id, shard number and chunk number.
pub(super) type Key = (u64, u32, u32);

/// Number of parts with separate locks, so that threads rarely wait for each other.
const WAYS: usize = 16;

/// A cache of decoded chunks with a limit in bytes. Chunks that were not used recently are removed first.
///
/// In a forked child the cache is empty and stores nothing: a lock may have been copied while it was held.
#[derive(Debug)]
pub struct ChunkCache {
    pid: u32,
    ways: Vec<Mutex<Way>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Default)]
struct Way {
    most: usize,
    held: usize,
    places: HashMap<Key, usize>,
    slots: Vec<Slot>,
    hand: usize,
}

#[derive(Debug)]
struct Slot {
    key: Key,
    bytes: Arc<[u8]>,
    used: bool,
}

impl ChunkCache {
    /// Create an empty cache that holds at most `most_bytes`.
    #[must_use]
    pub fn new(most_bytes: usize) -> Self {
        let way = || Mutex::new(Way { most: most_bytes / WAYS, ..Way::default() });
        let ways = (0..WAYS).map(|_| way()).collect();
        Self { pid: std::process::id(), ways, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// Number of cache hits and misses so far.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    /// Number of bytes in the cache.
    #[must_use]
    pub fn bytes(&self) -> usize {
        if self.is_foreign() {
            return 0;
        }
        self.ways.iter().map(|way| way.lock().unwrap_or_else(PoisonError::into_inner).held).sum()
    }

    fn is_foreign(&self) -> bool {
        self.pid != std::process::id()
    }

    fn way(&self, (array, shard, chunk): Key) -> &Mutex<Way> {
        &self.ways[(array as usize).wrapping_add(shard as usize).wrapping_add(chunk as usize) % WAYS]
    }

    pub(super) fn get(&self, key: Key) -> Option<Arc<[u8]>> {
        if self.is_foreign() {
            return None;
        }
        let mut way = self.way(key).lock().unwrap_or_else(PoisonError::into_inner);
        let found = way.places.get(&key).copied().map(|place| {
            way.slots[place].used = true;
            Arc::clone(&way.slots[place].bytes)
        });
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    pub(super) fn put(&self, key: Key, parts: [&[u8]; 2]) {
        let length = parts[0].len() + parts[1].len();
        if self.is_foreign() {
            return;
        }
        let mut way = self.way(key).lock().unwrap_or_else(PoisonError::into_inner);
        if length > way.most || way.places.contains_key(&key) {
            return;
        }
        while way.held + length > way.most {
            way.evict();
        }
        let mut bytes = Vec::with_capacity(length);
        bytes.extend_from_slice(parts[0]);
        bytes.extend_from_slice(parts[1]);
        let place = way.slots.len();
        way.slots.push(Slot { key, bytes: bytes.into(), used: false });
        way.places.insert(key, place);
        way.held += length;
    }
}

impl Way {
    /// Remove one chunk. The cache part must not be empty.
    fn evict(&mut self) {
        loop {
            self.hand %= self.slots.len();
            let slot = &mut self.slots[self.hand];
            if !slot.used {
                break;
            }
            slot.used = false;
            self.hand += 1;
        }
        let gone = self.slots.swap_remove(self.hand);
        self.held -= gone.bytes.len();
        self.places.remove(&gone.key);
        if let Some(moved) = self.slots.get(self.hand) {
            self.places.insert(moved.key, self.hand);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_within_its_bytes_and_keeps_what_is_asked_for() {
        let cache = ChunkCache::new(WAYS * 1000);
        let favourite = (7, 0, 0);
        cache.put(favourite, [&[1; 60], &[2; 40]]);
        for chunk in 0..10_000u32 {
            assert!(cache.get(favourite).is_some(), "{chunk}");
            cache.put((1, 0, chunk), [&[chunk as u8; 60], &[3; 40]]);
            assert!(cache.bytes() <= WAYS * 1000);
        }
        assert_eq!(&cache.get(favourite).unwrap()[58..62], &[1, 1, 2, 2]);
        let held = (0..10_000).filter_map(|chunk| cache.get((1, 0, chunk)).map(|bytes| (chunk, bytes)));
        let held: Vec<_> = held.collect();
        assert!(held.len() > WAYS * 8, "{}", held.len());
        assert!(held.iter().all(|(chunk, bytes)| bytes[0] == *chunk as u8 && bytes.len() == 100));
        cache.put((9, 9, 9), [&[0; 1001], &[]]);
        assert!(cache.get((9, 9, 9)).is_none());
        assert_eq!(cache.counts().0, 10_001 + held.len() as u64);
    }

    #[test]
    fn its_bytes_are_used_to_the_last_one() {
        let cache = ChunkCache::new(WAYS * 100);
        // Keys of one way: the first chunk fills it, the others need it to be emptied.
        let keys = [(0, 0, 0), (0, 0, WAYS as u32), (0, 0, 2 * WAYS as u32)];
        cache.put(keys[0], [&[1; 60], &[2; 40]]);
        assert!(cache.get(keys[0]).is_some());
        cache.put(keys[1], [&[3; 50], &[]]);
        cache.put(keys[2], [&[4; 30], &[5; 20]]);
        assert_eq!(keys.map(|key| cache.get(key).is_some()), [false, true, true]);
        assert_eq!(cache.bytes(), 100);
    }
}
