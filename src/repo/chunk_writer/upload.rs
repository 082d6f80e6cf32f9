//! The threads that store sealed packs.

use crossbeam_channel::{Receiver, Sender};

use crate::format::commit::ObjectName;
use crate::repo::chunk_writer::Event;
use crate::repo::pack_builder::SealedPack;
use crate::store::{Put, Store};

/// Stores packs until there are no more, or one fails.
pub(super) fn store_packs(
    store: &dyn Store,
    packs: &Receiver<SealedPack>,
    events: &Sender<Event>,
    spare: &Sender<Vec<u8>>,
) {
    let is_far = store.upload_slots() > 1;
    for SealedPack { mut object, entry } in packs {
        let name = ObjectName::Data(entry.name).to_string();
        let put = if is_far {
            store.put_owned(&name, std::mem::take(&mut object))
        } else {
            store.put(&name, &object)
        };
        let event = match put {
            Ok(put) => Event::Stored { pack: Box::new(entry), created: put == Put::Created },
            Err(error) => Event::Failed(error.into()),
        };
        let failed = matches!(event, Event::Failed(_));
        drop(events.send(event));
        if failed {
            return;
        }
        drop(spare.send(object));
    }
}
