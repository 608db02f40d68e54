//! Files that changed after they were written: truncated, extended, modified, removed.

use connectors::{ChunkLayout, Dtype, ErrorKind, Group, MemoryFormat, MemoryObj, MemoryObjMut, Shape};

use super::{Place, bytes, file_name, key, kv};

#[tokio::test]
async fn damaged_files_are_corrupt_and_never_a_chunk() {
    let place = Place::new();
    let connector = place.open("").await;
    let file = place.dir().join(file_name(1));
    connector.put(&key(1), kv(4, 1)).await.unwrap();
    let good = std::fs::read(&file).unwrap();
    let mut wrong_dtype = good.clone();
    wrong_dtype[8] = 99;
    let mut longer = good.clone();
    longer.push(0);
    for (what, damaged) in [
        ("empty", Vec::new()),
        ("half a header", good[..14].to_vec()),
        ("truncated", good[..good.len() - 1].to_vec()),
        ("longer", longer),
        ("unknown dtype", wrong_dtype),
    ] {
        std::fs::write(&file, damaged).unwrap();
        let mut memory = MemoryObjMut::zeroed(good.len());
        for e in
            [connector.get(&key(1)).await.unwrap_err(), connector.get_into(&key(1), &mut memory).await.unwrap_err()]
        {
            assert_eq!(e.kind(), ErrorKind::Corrupt, "{what}: {e}");
            assert!(e.to_string().contains("opt-125m@1@0@1@half.data"), "{what}: {e}");
        }
    }
}

#[tokio::test]
async fn a_torn_file_of_several_groups_is_not_taken_for_one_of_fewer() {
    let place = Place::new();
    let connector = place.open("").await;
    let group = Group { shape: Shape::new(&[2, 1, 3, 4]).unwrap(), dtype: Some(Dtype::Bfloat16) };
    let layout = ChunkLayout::from_groups(MemoryFormat::Kv2ltd, &[group, group]).unwrap();
    connector.put(&key(1), MemoryObj::from_vec(bytes(layout.len, 1), layout).unwrap()).await.unwrap();
    let file = place.dir().join(file_name(1));
    let whole = std::fs::read(&file).unwrap();
    // A group of the header has twenty bytes, and a power cut leaves zeros.
    for torn in [whole[..whole.len() - 20].to_vec(), vec![0; 28], Vec::new()] {
        std::fs::write(&file, torn).unwrap();
        assert_eq!(connector.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Corrupt);
        assert!(!connector.exists(&key(1)).await.unwrap());
        assert_eq!(connector.batched_contains(&[key(1)]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_named_pipe_in_place_of_a_chunk_is_a_miss_and_does_not_block() {
    let place = Place::new();
    let connector = place.open("").await;
    connector.put(&key(2), kv(1, 1)).await.unwrap();
    let pipe = place.dir().join(file_name(1));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(connector.get(&key(1)).await.unwrap(), None);
    assert_eq!(connector.batched_get(&[key(1), key(2)]).await.remove(0).unwrap(), None);
    assert!(!connector.exists(&key(1)).await.unwrap());
    connector.close().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_is_gone_is_a_miss_to_read_and_an_error_to_write() {
    let place = Place::new();
    let connector = place.open("").await;
    connector.put(&key(1), kv(1, 1)).await.unwrap();
    std::fs::remove_dir_all(place.text("fs")).unwrap();
    assert_eq!(connector.get(&key(1)).await.unwrap(), None);
    let e = connector.put(&key(1), kv(1, 1)).await.unwrap_err();
    assert!(e.kind() == ErrorKind::Io && e.to_string().contains(&place.text("fs")), "{e}");
    assert!(connector.ping().await.is_err());
}

#[tokio::test]
async fn a_bit_flipped_in_the_header_is_corrupt_unless_it_makes_another_header_of_the_same_length() {
    let place = Place::new();
    let store = place.open("").await;
    store.put(&key(1), kv(4, 1)).await.unwrap();
    let path = place.dir().join(file_name(1));
    let whole = std::fs::read(&path).unwrap();
    let mut seen_as_other = Vec::new();
    for bit in 0..28 * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&path, &flipped).unwrap();
        match store.get(&key(1)).await {
            Err(e) => assert_eq!(e.kind(), ErrorKind::Corrupt, "bit {bit}: {e}"),
            Ok(found) => {
                let found = found.expect("the file is there");
                assert!(found[..] == whole[28..] && *found.layout() != *kv(4, 1).layout(), "bit {bit}");
                // The file is valid, so only a checksum shows that it changed.
                let by_groups = ChunkLayout::from_groups(found.layout().format, &found.layout().groups).unwrap();
                assert_eq!(by_groups.len, found.len(), "bit {bit}");
                seen_as_other.push(bit / 8);
            }
        }
    }
    // Only a flip in the format, or to a dtype of the same width, passes. A flip in the length or the shape does not.
    assert!(seen_as_other.iter().all(|byte| (4..12).contains(byte)), "{seen_as_other:?}");
}

#[tokio::test]
async fn a_file_of_another_length_is_never_a_chunk() {
    let place = Place::new();
    let store = place.open("").await;
    store.put(&key(1), kv(1, 1)).await.unwrap();
    let path = place.dir().join(file_name(1));
    let whole = std::fs::read(&path).unwrap();
    for len in (0..whole.len() + 70).filter(|len| *len != whole.len()) {
        let mut other = whole.clone();
        other.resize(len, 0);
        std::fs::write(&path, &other).unwrap();
        assert_eq!(store.get(&key(1)).await.unwrap_err().kind(), ErrorKind::Corrupt, "{len}");
        assert!(!store.exists(&key(1)).await.unwrap(), "{len}");
    }
}

#[tokio::test]
async fn no_operation_makes_a_removed_directory_again() {
    for options in ["", "?capacity=100000", "?relative_tmp_dir=tmp", "?fsync=full"] {
        let place = Place::new();
        let store = place.open(options).await;
        store.put(&key(1), kv(1, 1)).await.unwrap();
        std::fs::remove_dir_all(place.dir()).unwrap();
        assert_eq!(store.put(&key(1), kv(1, 1)).await.unwrap_err().kind(), ErrorKind::Io, "{options}");
        assert_eq!(store.batched_put(&[(key(2), kv(1, 1)), (key(3), kv(1, 1))]).await.iter().flatten().count(), 0);
        assert!(!store.remove(&key(1)).await.unwrap());
        assert_eq!(store.get(&key(1)).await.unwrap(), None);
        assert!(super::keys_or_error(&store).await.is_err());
        store.close().await.unwrap();
        assert!(!place.dir().exists(), "{options}");
    }
}
