package edge

// slabSize is how many values are made at once. All of them stay in memory while
// one is in use: slabs are for what lives shortly.
const slabSize = 32

// slab hands out zero values, with one allocation for many of them.
type slab[T any] struct{ free []T }

func (s *slab[T]) take() *T {
	if len(s.free) == 0 {
		s.free = make([]T, slabSize)
	}
	one := &s.free[0]
	s.free = s.free[1:]
	return one
}
