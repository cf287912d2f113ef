//! Inner loops that are compiled once for processors with AVX2 and FMA and once for all processors.

/// Define a function that calls the first of two if the processor supports AVX2 and FMA, and else the second. The first
/// must be inlined: code that is inlined into a function is compiled for the processor features of that function.
macro_rules! dispatch {
    (
        $(#[$meta:meta])*
        $vis:vis fn $name:ident($($argument:ident: $type:ty),*) $(-> $out:ty)? = $fast:expr, $plain:expr
    ) => {
        $(#[$meta])*
        #[inline]
        $vis fn $name($($argument: $type),*) $(-> $out)? {
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                #[target_feature(enable = "avx2,fma")]
                fn fast($($argument: $type),*) $(-> $out)? {
                    $fast($($argument),*)
                }
                // SAFETY: the processor supports AVX2 and FMA, as checked above.
                return unsafe { fast($($argument),*) };
            }
            $plain($($argument),*)
        }
    };
}

pub(crate) use dispatch;
