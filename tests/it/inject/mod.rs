//! The main job on images, as a whole: what `deaddrop inject` leaves in the image, beside it and on the screen, judged
//! by the kernel, e2fsck, debugfs, libcrypt and strace.

mod absent;
mod confined;
mod files;
mod interrupted;
mod job;
mod journal;
mod outputs;
mod planned;
mod roots;
mod several;
mod signals;
