//! What happens to one voxel on its way into a window: scaled to [0, 1], taken as it is, or checked as a label.

/// How voxels of type `In` become elements of a window.
pub(crate) trait Pixel: Copy + Sync {
    type In: Copy;
    type Out: Copy + Default + Send;
    /// What a job remembers of all voxels it met; starts at its default.
    type Note: Copy + Default;

    fn padding(self) -> Self::Out;
    fn convert(self, voxel: Self::In) -> Self::Out;
    fn note(_note: &mut Self::Note, _voxel: Self::In) {}
    /// Whether every voxel noted could be converted.
    fn accepts(_note: Self::Note) -> bool {
        true
    }
}

/// Clip to a range and scale it to [0, 1]. NaN, like padding, becomes the lower end.
#[derive(Clone, Copy)]
pub(crate) struct Scale<T, W> {
    low: W,
    factor: W,
    voxel: std::marker::PhantomData<fn() -> T>,
}

/// Take values as they are, as the nearest float32.
#[derive(Clone, Copy)]
pub(crate) struct Raw<T> {
    pub(crate) padding: f32,
    pub(crate) voxel: std::marker::PhantomData<fn() -> T>,
}

macro_rules! scale {
    ($work:ty: $($type:ty),*) => { $(
        impl Scale<$type, $work> {
            pub(crate) fn new([low, high]: [f64; 2]) -> Self {
                Self { low: low as $work, factor: (1.0 / (high - low)) as $work, voxel: std::marker::PhantomData }
            }
        }
        impl Pixel for Scale<$type, $work> {
            type In = $type;
            type Out = f32;
            type Note = ();
            #[inline(always)]
            fn padding(self) -> f32 {
                0.0
            }
            #[inline(always)]
            #[allow(clippy::cast_lossless)]
            fn convert(self, voxel: $type) -> f32 {
                let scaled = (voxel as $work - self.low) * self.factor;
                // In this form each comparison is one instruction, and NaN fails the first one.
                let scaled = if scaled > 0.0 { scaled } else { 0.0 };
                (if scaled < 1.0 { scaled } else { 1.0 }) as f32
            }
        }
        impl Pixel for Raw<$type> {
            type In = $type;
            type Out = f32;
            type Note = ();
            #[inline(always)]
            fn padding(self) -> f32 {
                self.padding
            }
            #[inline(always)]
            #[allow(clippy::cast_lossless)]
            fn convert(self, voxel: $type) -> f32 {
                voxel as f32
            }
        }
    )* };
}
// float32 holds the first five exactly, so their arithmetic stays in it.
scale!(f32: i8, u8, i16, u16, f32);
scale!(f64: i32, f64);

/// A label of an integer type, as uint8.
#[derive(Clone, Copy)]
pub(crate) struct Label<T>(pub(crate) std::marker::PhantomData<fn() -> T>);

macro_rules! label {
    ($($type:ty),*) => { $(impl Pixel for Label<$type> {
        type In = $type;
        type Out = u8;
        /// All bits that any voxel had set.
        type Note = $type;
        #[inline(always)]
        fn padding(self) -> u8 {
            0
        }
        #[inline(always)]
        fn convert(self, voxel: $type) -> u8 {
            voxel as u8
        }
        #[inline(always)]
        fn note(note: &mut $type, voxel: $type) {
            *note |= voxel;
        }
        fn accepts(note: $type) -> bool {
            u8::try_from(note).is_ok()
        }
    })* };
}
label!(u8, i8, u16, i16, u32, i32, u64, i64);

/// A boolean stored as a byte of any value, as 0 or 1.
#[derive(Clone, Copy)]
pub(crate) struct Truth;

impl Pixel for Truth {
    type In = u8;
    type Out = u8;
    type Note = ();
    #[inline(always)]
    fn padding(self) -> u8 {
        0
    }
    #[inline(always)]
    fn convert(self, voxel: u8) -> u8 {
        u8::from(voxel != 0)
    }
}
