//! wgpu's pipeline cache, and its bytes with a seal: who they are for, and that they are whole.

use wgpu::util::pipeline_cache_key;

use crate::checksum::fnv1a;

const MAGIC: &[u8] = b"prflash pipelines 1\n";

/// A cache on a device that has them, with earlier data if it is whole and for this adapter; else
/// empty.
pub(crate) fn open(device: &wgpu::Device, sealed: Option<&[u8]>) -> Option<wgpu::PipelineCache> {
    if !device.features().contains(wgpu::Features::PIPELINE_CACHE) {
        return None;
    }
    let data = sealed.and_then(|sealed| {
        let data = unseal(sealed, &key(device)?);
        if data.is_none() {
            log::info!("the pipeline cache is damaged or another device's: starting an empty one");
        }
        data
    });
    let descriptor = wgpu::PipelineCacheDescriptor { label: Some("prflash"), data, fallback: true };
    // SAFETY: the data must come from `PipelineCache::get_data`. It carries the seal that `data`
    // below gave it: the key of this adapter and a hash of every byte, so it is neither damaged nor
    // another program's. That nobody forged the seal can't be checked, and the option's
    // documentation says so. wgpu itself checks the driver's version.
    #[allow(unsafe_code)]
    let cache = unsafe { device.create_pipeline_cache(&descriptor) };
    Some(cache)
}

/// The cache's bytes, sealed.
pub(crate) fn data(device: &wgpu::Device, cache: &wgpu::PipelineCache) -> Option<Vec<u8>> {
    Some(seal(&cache.get_data()?, &key(device)?))
}

fn key(device: &wgpu::Device) -> Option<String> {
    pipeline_cache_key(&device.adapter_info())
}

fn seal(data: &[u8], key: &str) -> Vec<u8> {
    [MAGIC, &hash(data, key).to_le_bytes(), data].concat()
}

fn unseal<'a>(sealed: &'a [u8], key: &str) -> Option<&'a [u8]> {
    let (sum, data) = sealed.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*sum) == hash(data, key)).then_some(data)
}

/// The checksum of the key and the data.
fn hash(data: &[u8], key: &str) -> u64 {
    fnv1a(key.as_bytes().iter().chain(&[0]).chain(data))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_data_for_the_same_key_opens() {
        let sealed = seal(b"pipelines", "one");
        assert_eq!(unseal(&sealed, "one"), Some(&b"pipelines"[..]));
        assert_eq!(unseal(&sealed, "two"), None);
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 1;
            assert_eq!(unseal(&damaged, "one"), None, "byte {at}");
            assert_eq!(unseal(&sealed[..at], "one"), None, "{at} bytes");
        }
    }
}
